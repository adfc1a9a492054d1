/* What starts a program gives it: files of the host, a clock that counts instructions, and how deep its stack goes. */

#include <stdint.h>

int32_t board_open(const char *name, int writing);
uint32_t board_read(int32_t file, void *data, uint32_t n); /* how many bytes are missing */
uint32_t board_write(int32_t file, const void *data, uint32_t n);
void board_begin(void);         /* starts the clock */
uint64_t board_ticks(void);     /* 0 where nothing counts */
void board_paint(void);         /* fills the stack below the caller */
uint32_t board_depth(void);     /* bytes of it that have been used since */
void *memset(void *to, int value, __SIZE_TYPE__ n);
