/* Start of a program on an emulated Arm board: vectors, coprocessors, data, then main; host files by semihosting. */

#include <stdint.h>

extern uint32_t __stack_top, __data_start, __data_end, __data_load, __bss_start, __bss_end;
int main(void);
void *memcpy(void *to, const void *from, __SIZE_TYPE__ n);
void *memset(void *to, int value, __SIZE_TYPE__ n);

volatile uint32_t board_wraps; /* of the timer */

int32_t board_host(int32_t operation, const void *arguments) {
  register int32_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static void stop(uint32_t reason) {
  board_host(0x18, (const void *)reason);
  for (;;) {
  }
}

static void reset(void) {
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: coprocessors 10 and 11 */
  __asm__ volatile("dsb\n isb");
#endif
  memcpy(&__data_start, &__data_load, (uint32_t)((char *)&__data_end - (char *)&__data_start));
  memset(&__bss_start, 0, (uint32_t)((char *)&__bss_end - (char *)&__bss_start));
  main();
  stop(0x20026); /* the application ends */
}

static void fault(void) {
  board_host(4, "fault\n");
  stop(0x20023);
}

static void tick(void) { board_wraps++; }

__attribute__((section(".vectors"), used)) void *const vectors[16] = {
    &__stack_top, reset, fault, fault, fault, fault, fault, fault, 0, 0, 0, fault, fault, 0, fault, tick,
};
