/* Runs a model on samples from the host's file in.bin, writes results to out.bin, and says what that took.

   run.h is made for the model: it includes its header and defines INVOKE and RESET, ARENA_BYTES and STATE_BYTES, STREAM (whether a run
   starts from the state that the last one left), INPUT_BYTES and OUTPUT_BYTES (lists), INPUTS and OUTPUTS (numbers), INPUT_TOTAL and
   OUTPUT_TOTAL (room, every tensor aligned to 16 bytes with a guard behind it). */

#include <stdint.h>

#include "run.h"

#define GUARD 64
#define PATTERN 0xA5

extern volatile uint32_t board_wraps;
extern uint8_t __stack_limit, __stack_top;
int32_t board_host(int32_t operation, const void *arguments);
void *memset(void *to, int value, __SIZE_TYPE__ n);

static const uint32_t input_bytes[] = INPUT_BYTES, output_bytes[] = OUTPUT_BYTES;
__attribute__((section(".arena"), aligned(16))) static uint8_t arena[GUARD + ARENA_BYTES + GUARD];
__attribute__((section(".arena"), aligned(16))) static uint8_t state[GUARD + STATE_BYTES + GUARD];
__attribute__((section(".arena"), aligned(16))) static uint8_t inputs[INPUT_TOTAL], outputs[OUTPUT_TOTAL];

static int32_t host_open(const char *name, uint32_t length, uint32_t mode) {
  const void *arguments[] = {name, (void *)mode, (void *)length};
  return board_host(1, arguments);
}

static uint32_t transfer(int32_t operation, int32_t file, void *data, uint32_t n) {
  void *arguments[] = {(void *)file, data, (void *)n};
  return (uint32_t)board_host(operation, arguments); /* bytes that were not read or written */
}

static void say(const char *what, uint32_t value) {
  char text[64];
  uint32_t n = 0, digits = 1;
  while (*what) text[n++] = *what++;
  text[n++] = ' ';
  for (uint32_t rest = value; rest >= 10; rest /= 10) digits++;
  for (uint32_t i = digits; i-- > 0; value /= 10) text[n + i] = (char)('0' + value % 10);
  n += digits;
  text[n++] = '\n';
  text[n] = 0;
  board_host(4, text);
}

static int broken(const uint8_t *guard, uint32_t n) {
  for (uint32_t i = 0; i < n; i++)
    if (guard[i] != PATTERN) return 1;
  return 0;
}

#define TIMER ((volatile uint32_t *)0xE000E010) /* control, reload, current */

static uint64_t now(void) {
  uint32_t wraps, ticks;
  do {
    wraps = board_wraps;
    ticks = TIMER[2];
  } while (wraps != board_wraps);
  return ((uint64_t)wraps << 24) + (0xFFFFFF - ticks);
}

int main(void) {
  const void *from[INPUTS > 0 ? INPUTS : 1];
  void *to[OUTPUTS];
  uint32_t at = 0, failed = 0, most = 0, deepest = 0, runs = 0;
  for (int i = 0; i < INPUTS; i++) from[i] = inputs + at, at += (input_bytes[i] + 15) / 16 * 16 + GUARD;
  at = GUARD;
  for (int i = 0; i < OUTPUTS; i++) to[i] = outputs + at, at += (output_bytes[i] + 15) / 16 * 16 + GUARD;
  const int32_t in = host_open("in.bin", 6, 1), out = host_open("out.bin", 7, 5);
  TIMER[1] = 0xFFFFFF;
  TIMER[2] = 0;
  TIMER[0] = 7;
  memset(state, PATTERN, sizeof state);
  for (;;) {
    uint32_t missing = 0;
    for (int i = 0; i < INPUTS; i++) missing += transfer(6, in, (void *)(uintptr_t)from[i], input_bytes[i]);
    if (missing || (INPUTS == 0 && runs)) break;
    if (!STREAM || !runs) RESET(state + GUARD);
    memset(arena, PATTERN, sizeof arena);
    memset(outputs, PATTERN, sizeof outputs);
    uint8_t *volatile bottom = &__stack_limit;
    uint8_t *const here = (uint8_t *)__builtin_frame_address(0) - 160;
    for (uint8_t *p = bottom; p < here; p++) *(volatile uint8_t *)p = PATTERN;
    const uint64_t start = now();
    failed |= (uint32_t)INVOKE(from, to, arena + GUARD, state + GUARD);
    const uint32_t ticks = (uint32_t)(now() - start);
    while (bottom < here && *bottom == PATTERN) bottom++;
    if (ticks > most) most = ticks;
    if ((uint32_t)(here + 160 - bottom) > deepest) deepest = (uint32_t)(here + 160 - bottom);
    failed |= (uint32_t)(broken(state, GUARD) | broken(state + GUARD + STATE_BYTES, GUARD)) << 1;
    failed |= (uint32_t)(broken(arena, GUARD) | broken(arena + GUARD + ARENA_BYTES, GUARD) | broken(outputs, GUARD)) << 1;
    for (int i = 0; i < OUTPUTS; i++) {
      failed |= (uint32_t)broken((uint8_t *)to[i] + output_bytes[i], GUARD) << 1;
      transfer(5, out, to[i], output_bytes[i]);
    }
    runs++;
  }
  say("runs", runs);
  say("failed", failed);
  say("ticks", most);
  say("stack", deepest);
  return 0;
}
