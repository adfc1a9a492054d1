// Sketch > Include Library > Add .ZIP Library: digits.zip
#include <digits.h>

alignas(16) static uint8_t arena[DIGITS_ARENA_BYTES];
static DIGITS_INPUT_0_TYPE image[DIGITS_INPUT_0_BYTES / sizeof(DIGITS_INPUT_0_TYPE)];
static DIGITS_OUTPUT_0_TYPE scores[DIGITS_OUTPUT_0_BYTES / sizeof(DIGITS_OUTPUT_0_TYPE)];

void setup() { Serial.begin(115200); }

void loop() {
  const void *inputs[] = {image};
  void *outputs[] = {scores};
  digits_invoke(inputs, outputs, arena);
  for (DIGITS_OUTPUT_0_TYPE score : scores) Serial.println(DIGITS_OUTPUT_0_SCALE * (score - DIGITS_OUTPUT_0_ZERO_POINT));
  delay(1000);
}
