/* Products of 16-bit activations: convolutions, depthwise ones and dense layers, sums in 32 or 64 bits. */

typedef struct {
  const void *w; /* int8 or 4-bit; [out_c][kh][kw][in_c / groups], or depthwise [kh][kw][out_c] */
  const int64_t *bias64;
  const int32_t *bias;
  q_rescale r;
  uint16_t in_h, in_w, in_c, out_h, out_w, out_c;
  uint16_t top, left, groups, batch;
  uint8_t kh, kw, sh, sw, dh, dw;
  int8_t narrow, depthwise;
} q_wide;

Q_INLINE int32_t q_wide_weight(const q_wide *l, int32_t at, int narrow) {
  if (!narrow) return ((const int8_t *)l->w)[at];
  const uint8_t two = ((const uint8_t *)l->w)[at >> 1];
  return (int32_t)(((at & 1 ? two >> 4 : two & 15) ^ 8)) - 8;
}

/* Sums of a row of taps stay in 32 bits where `rows32` says so; those of all rows are added in 64. */
Q_INLINE int64_t q_wide_sum(const q_wide *l, const int16_t *x, int32_t oy, int32_t ox, int32_t c, int64_t sum,
                            int narrow, int wide) {
  const int32_t per_in = l->depthwise ? 1 : l->in_c / l->groups;
  const int32_t ic = l->depthwise ? c / (l->out_c / l->in_c) : c / (l->out_c / l->groups) * per_in;
  int32_t narrow_sum = (int32_t)sum;
  for (int32_t i = 0; i < l->kh; i++) {
    const int32_t y = oy * l->sh - l->top + i * l->dh;
    if (y < 0 || y >= l->in_h) continue;
    for (int32_t j = 0; j < l->kw; j++) {
      const int32_t at = ox * l->sw - l->left + j * l->dw;
      if (at < 0 || at >= l->in_w) continue;
      const int16_t *p = x + (y * l->in_w + at) * l->in_c + ic;
      const int32_t tap = i * l->kw + j;
      const int32_t w = l->depthwise ? tap * l->out_c + c : (c * l->kh * l->kw + tap) * per_in;
      for (int32_t k = 0; k < per_in; k++) {
        const int32_t product = p[k] * q_wide_weight(l, w + k, narrow);
        if (wide) sum += product;
        else narrow_sum += product;
      }
    }
  }
  return wide ? sum : narrow_sum;
}

Q_INLINE void q_wide_all(const q_wide *l, const int16_t *x, int16_t *y, int kind, int narrow, int wide) {
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c)
    for (int32_t oy = 0; oy < l->out_h; oy++)
      for (int32_t ox = 0; ox < l->out_w; ox++, y += l->out_c)
        for (int32_t c = 0; c < l->out_c; c++) {
          const int64_t bias = wide ? l->bias64[c] : l->bias[c];
          const int64_t sum = q_wide_sum(l, x, oy, ox, c, bias, narrow, wide);
          y[c] = (int16_t)(wide ? q_code64(sum, &l->r, c, kind) : q_code((int32_t)sum, &l->r, c, kind));
        }
}
