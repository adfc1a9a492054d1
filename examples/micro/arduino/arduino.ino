// Sketch > Include Library > Add .ZIP Library: digits.zip
#include <digits.h>

alignas(16) static uint8_t arena[DIGITS_ARENA_BYTES];
static int8_t image[DIGITS_INPUT_0_BYTES], scores[DIGITS_OUTPUT_0_BYTES];

void setup() { Serial.begin(115200); }

void loop() {
  const void *inputs[] = {image};
  void *outputs[] = {scores};
  digits_invoke(inputs, outputs, arena);
  for (int8_t score : scores) Serial.println(DIGITS_OUTPUT_0_SCALE * (score - DIGITS_OUTPUT_0_ZERO_POINT));
  delay(1000);
}
