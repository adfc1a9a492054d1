/* Runs a model's C on this machine, every tensor in memory of exactly its size, so that sanitizers see each wrong
   access.  run.h is made for the model. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"

static const size_t input_bytes[] = INPUT_BYTES, output_bytes[] = OUTPUT_BYTES;

int main(void) {
  const void *from[INPUTS + 1];
  void *to[OUTPUTS], *arena = aligned_alloc(16, (ARENA_BYTES + 15) / 16 * 16 + 16);
  void *state = malloc(STATE_BYTES);
  FILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");
  if (!in || !out || !arena) return 2;
  for (int i = 0; i < INPUTS; i++) from[i] = malloc(input_bytes[i]);
  for (int i = 0; i < OUTPUTS; i++) to[i] = malloc(output_bytes[i]);
  for (int runs = 0;; runs++) {
    int missing = 0;
    for (int i = 0; i < INPUTS; i++) missing |= fread((void *)from[i], 1, input_bytes[i], in) != input_bytes[i];
    if (missing || (INPUTS == 0 && runs)) break;
    if (!STREAM || !runs) RESET(state);
    memset(arena, 0xA5, ARENA_BYTES);
#if defined(EXACT)
    void *exact = malloc(ARENA_BYTES);
    if (INVOKE(from, to, exact, state)) return 4;
    free(exact);
#else
    if (INVOKE(from, to, arena, state)) return 4;
#endif
    for (int i = 0; i < OUTPUTS; i++) fwrite(to[i], 1, output_bytes[i], out);
  }
  return fclose(out);
}
