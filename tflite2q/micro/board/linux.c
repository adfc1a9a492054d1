/* The same for a Linux program: files are files, and nothing is counted. */

#include <stdio.h>

#include "board.h"

static FILE *files[2];

int32_t board_open(const char *name, int writing) {
  files[writing] = fopen(name, writing ? "wb" : "rb");
  return files[writing] ? writing : -1;
}
uint32_t board_read(int32_t file, void *data, uint32_t n) {
  return file < 0 ? n : n - (uint32_t)fread(data, 1, n, files[file]);
}
uint32_t board_write(int32_t file, const void *data, uint32_t n) {
  if (file < 0) return n;
  n -= (uint32_t)fwrite(data, 1, n, files[file]);
  fflush(files[file]);
  return n;
}
void board_begin(void) {}
uint64_t board_ticks(void) { return 0; }
void board_paint(void) {}
uint32_t board_depth(void) { return 0; }
