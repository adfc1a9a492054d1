/* Runs a model on samples from in.bin, and writes to out.bin after each its results and what they took.

   run.h is made for the model: it includes its header and defines INVOKE and RESET, ARENA_BYTES and STATE_BYTES, STREAM (whether a run
   starts from the state that the last one left), INPUT_BYTES and OUTPUT_BYTES (lists), INPUTS and OUTPUTS (numbers), INPUT_TOTAL and
   OUTPUT_TOTAL (room, every tensor aligned to 16 bytes with a guard behind it). */

#include "board.h"
#include "run.h"

#define GUARD 64
#define PATTERN 0xA5

static const uint32_t input_bytes[] = INPUT_BYTES, output_bytes[] = OUTPUT_BYTES;
__attribute__((section(".arena"), aligned(16))) static uint8_t arena[GUARD + ARENA_BYTES + GUARD];
__attribute__((section(".arena"), aligned(16))) static uint8_t state[GUARD + STATE_BYTES + GUARD];
__attribute__((section(".arena"), aligned(16))) static uint8_t inputs[INPUT_TOTAL], outputs[OUTPUT_TOTAL];

static uint32_t broken(const uint8_t *guard, uint32_t n) {
  for (uint32_t i = 0; i < n; i++)
    if (guard[i] != PATTERN) return 2;
  return 0;
}

int main(void) {
  const void *from[INPUTS > 0 ? INPUTS : 1];
  void *to[OUTPUTS];
  uint32_t at = 0;
  for (int i = 0; i < INPUTS; i++) from[i] = inputs + at, at += (input_bytes[i] + 15) / 16 * 16 + GUARD;
  at = GUARD;
  for (int i = 0; i < OUTPUTS; i++) to[i] = outputs + at, at += (output_bytes[i] + 15) / 16 * 16 + GUARD;
  const int32_t in = board_open("in.bin", 0), out = board_open("out.bin", 1);
  board_begin();
  memset(state, PATTERN, sizeof state);
  for (uint32_t runs = 0;; runs++) {
    uint8_t go;
    uint32_t missing = board_read(in, &go, 1);
    for (int i = 0; i < INPUTS; i++) missing += board_read(in, (void *)(uintptr_t)from[i], input_bytes[i]);
    if (missing) return 0;
    if (!STREAM || !runs) RESET(state + GUARD);
    memset(arena, PATTERN, sizeof arena);
    memset(outputs, PATTERN, sizeof outputs);
    board_paint();
    const uint64_t start = board_ticks();
    uint32_t failed = INVOKE(from, to, arena + GUARD, state + GUARD) != 0;
    const uint32_t ticks = (uint32_t)(board_ticks() - start), stack = board_depth();
    failed |= broken(state, GUARD) | broken(state + GUARD + STATE_BYTES, GUARD);
    failed |= broken(arena, GUARD) | broken(arena + GUARD + ARENA_BYTES, GUARD) | broken(outputs, GUARD);
    for (int i = 0; i < OUTPUTS; i++) failed |= broken((uint8_t *)to[i] + output_bytes[i], GUARD);
    for (int i = 0; i < OUTPUTS; i++) board_write(out, to[i], output_bytes[i]);
    const uint32_t took[3] = {failed, ticks, stack};
    board_write(out, took, sizeof took);
  }
}
