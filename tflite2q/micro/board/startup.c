/* Start of a program on an emulated Arm board: vectors, coprocessors, data, then main; host files by semihosting. */

#include "board.h"

extern uint32_t __stack_top, __data_start, __data_end, __data_load, __bss_start, __bss_end;
extern uint8_t __stack_limit;
int main(void);
void *memcpy(void *to, const void *from, __SIZE_TYPE__ n);

#define TIMER ((volatile uint32_t *)0xE000E010) /* control, reload, current */
#define PATTERN 0xA5
#define OWN 160 /* bytes of stack that painting needs itself */

static volatile uint32_t wraps; /* of the timer */
static uint8_t *painted;

static int32_t host(int32_t operation, const void *arguments) {
  register int32_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

int32_t board_open(const char *name, int writing) {
  uint32_t length = 0;
  while (name[length]) length++;
  const void *arguments[] = {name, (void *)(writing ? 5 : 1), (void *)length};
  return host(1, arguments);
}

/* The host may take or give a part of it at a time. */
static uint32_t transfer(int32_t operation, int32_t file, void *data, uint32_t n) {
  while (n) {
    void *arguments[] = {(void *)file, data, (void *)n};
    const uint32_t left = (uint32_t)host(operation, arguments);
    if (left >= n) break;
    data = (uint8_t *)data + (n - left);
    n = left;
  }
  return n;
}

uint32_t board_read(int32_t file, void *data, uint32_t n) { return transfer(6, file, data, n); }
uint32_t board_write(int32_t file, const void *data, uint32_t n) { return transfer(5, file, (void *)data, n); }

void board_begin(void) {
  TIMER[1] = 0xFFFFFF;
  TIMER[2] = 0;
  TIMER[0] = 7;
}

uint64_t board_ticks(void) {
  uint32_t before, ticks;
  do {
    before = wraps;
    ticks = TIMER[2];
  } while (before != wraps);
  return ((uint64_t)before << 24) + (0xFFFFFF - ticks);
}

void board_paint(void) {
  painted = (uint8_t *)__builtin_frame_address(0) - OWN;
  for (uint8_t *p = &__stack_limit; p < painted; p++) *(volatile uint8_t *)p = PATTERN;
}

uint32_t board_depth(void) {
  uint8_t *volatile bottom = &__stack_limit;
  while (bottom < painted && *bottom == PATTERN) bottom++;
  return (uint32_t)(painted + OWN - bottom);
}

static void stop(uint32_t reason) {
  host(0x18, (const void *)reason);
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
  host(4, "fault\n");
  stop(0x20023);
}

static void tick(void) { wraps++; }

__attribute__((section(".vectors"), used)) void *const vectors[16] = {
    &__stack_top, reset, fault, fault, fault, fault, fault, fault, 0, 0, 0, fault, fault, 0, fault, tick,
};
