/* Functions of 16-bit codes: 512 linear pieces, and the sampled logistic function. */

/* ends: of the pieces, of 128 codes each. */
Q_INLINE int32_t q_piece(const int16_t *ends, int32_t code) {
  const int16_t *const e = ends + 256 + (code >> 7);
  return (int16_t)(e[0] + (((int16_t)(e[1] - e[0]) * (code & 127) + 64) >> 7));
}

Q_KERNEL void q_pieces(const int16_t *ends, const int16_t *x, int16_t *y, int32_t n) {
  for (int32_t i = 0; i < n; i++) y[i] = (int16_t)q_piece(ends, x[i]);
}

/* samples: 1 / (1 + exp(-i / 24)) in 1/65536; m, half and shift take a code to steps between them, `bits` each. */
Q_INLINE int32_t q_sampled(const uint16_t *samples, int32_t at, int32_t bits) {
  const uint32_t magnitude = at < 0 ? 0u - (uint32_t)at : (uint32_t)at, index = magnitude >> bits;
  if (index >= 255) return bits == 9 ? 0x7FFF << 10 : 0xFFFF << 8;
  const int32_t low = samples[index], high = samples[index + 1];
  return low * (1 << bits) + (int32_t)(magnitude & ((1u << bits) - 1)) * (high - low);
}

Q_KERNEL void q_sigmoid16(const uint16_t *samples, const int16_t *x, int16_t *y, int32_t n, int32_t m, int32_t half,
                          int32_t shift, int32_t tanh) {
  for (int32_t i = 0; i < n; i++) {
    const int32_t at = (int32_t)((uint32_t)x[i] * (uint32_t)m + (uint32_t)half) >> shift;
    const int32_t v = q_sampled(samples, at, tanh ? 8 : 9);
    if (tanh) y[i] = (int16_t)((at < 0 ? (1 << 23) - v + 127 : v - (1 << 23) + 128) >> 8);
    else y[i] = (int16_t)((at < 0 ? (1 << 25) - v + 511 : v + 512) >> 10);
  }
}
