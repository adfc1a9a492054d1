/* One run of a model on zeros.  The package comes from
     tflite2q convert models/digits_uint8.tflite --scheme int8 --lib digits.zip --target cortex-m4 */

#include "digits.h"

static uint8_t arena[DIGITS_ARENA_BYTES] __attribute__((aligned(16)));
static DIGITS_INPUT_0_TYPE image[DIGITS_INPUT_0_BYTES / sizeof(DIGITS_INPUT_0_TYPE)];
static DIGITS_OUTPUT_0_TYPE scores[DIGITS_OUTPUT_0_BYTES / sizeof(DIGITS_OUTPUT_0_TYPE)];

int main(void) {
  const void *inputs[DIGITS_INPUTS] = {image};
  void *outputs[DIGITS_OUTPUTS] = {scores};
  return digits_invoke(inputs, outputs, arena);
}
