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
  FILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");
  if (!in || !out || !arena) return 2;
  memset(arena, 0xA5, ARENA_BYTES);
  for (int i = 0; i < INPUTS; i++) {
    void *data = malloc(input_bytes[i]);
    if (fread(data, 1, input_bytes[i], in) != input_bytes[i]) return 3;
    from[i] = data;
  }
  for (int i = 0; i < OUTPUTS; i++) to[i] = malloc(output_bytes[i]);
#if defined(EXACT)
  void *exact = malloc(ARENA_BYTES);
  if (INVOKE(from, to, exact)) return 4;
#else
  if (INVOKE(from, to, arena)) return 4;
#endif
  for (int i = 0; i < OUTPUTS; i++) fwrite(to[i], 1, output_bytes[i], out);
  return fclose(out);
}
