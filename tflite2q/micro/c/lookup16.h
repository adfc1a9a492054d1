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

/* Functions that are linear on both sides of the zero point; `nudge` is added to products below 0, or is 2: products are
   rounded twice. */
typedef struct {
  int32_t m[2];
  int8_t n[2], nudge[2];
  int32_t zero, result_zero, low, high;
} q_bend;

Q_KERNEL void q_bent(const q_bend *l, const int16_t *x, int16_t *y, int32_t n) {
  for (int32_t i = 0; i < n; i++) {
    const int32_t away = x[i] - l->zero, side = away >= 0;
    const int64_t p = (int64_t)away * l->m[side];
    const int64_t v = l->nudge[side] == 2 ? q_exact(away, l->m[side], -l->n[side]) : (p + ((int64_t)1 << (l->n[side] - 1)) + (p < 0 ? l->nudge[side] : 0)) >> l->n[side];
    y[i] = (int16_t)(v < l->low - l->result_zero ? l->low : v > l->high - l->result_zero ? l->high : v + l->result_zero);
  }
}

/* table: what codes become, the lowest first. */
Q_KERNEL void q_table16(const int16_t *table, const int16_t *x, int16_t *y, int32_t n) {
  for (int32_t i = 0; i < n; i++) y[i] = table[x[i] + 32768];
}
