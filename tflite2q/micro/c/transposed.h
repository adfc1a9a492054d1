/* Transposed convolutions: each output pixel from the inputs whose filters reach it. */

typedef struct {
  const int8_t *w;     /* [out_c][kh][kw][in_c] */
  const int32_t *sums; /* of the weights of each tap, for int8 */
  const void *bias;    /* int64 where sums are so wide */
  q_rescale r;
  uint16_t in_h, in_w, in_c, out_h, out_w, out_c, batch;
  uint16_t top, left, kh, kw, sh, sw;
  int8_t zero;
  uint8_t weight_zero;
} q_transposed;

Q_INLINE int32_t q_reaching(const q_transposed *l, const int8_t *x, int32_t oy, int32_t ox, int32_t c) {
  int32_t sum = ((const int32_t *)l->bias)[c];
  for (int32_t i = 0; i < l->kh && i <= oy + l->top; i++) {
    const int32_t y = (oy + l->top - i) / l->sh;
    if (y * l->sh != oy + l->top - i || y >= l->in_h) continue;
    for (int32_t j = 0; j < l->kw && j <= ox + l->left; j++) {
      const int32_t at = (c * l->kh + i) * l->kw + j, column = (ox + l->left - j) / l->sw;
      if (column * l->sw != ox + l->left - j || column >= l->in_w) continue;
      sum += q_dot(x + (y * l->in_w + column) * l->in_c, l->w + at * l->in_c, l->in_c) - l->zero * l->sums[at];
    }
  }
  return sum;
}

Q_INLINE void q_transpose(const q_transposed *l, const int8_t *x, int8_t *y, int kind) {
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c)
    for (int32_t oy = 0; oy < l->out_h; oy++)
      for (int32_t ox = 0; ox < l->out_w; ox++)
        for (int32_t c = 0; c < l->out_c; c++) *y++ = (int8_t)q_code(q_reaching(l, x, oy, ox, c), &l->r, c, kind);
}

/* The same for uint8 and int16, tap by tap. */
Q_INLINE int64_t q_tapped(const q_transposed *l, const void *x, int32_t oy, int32_t ox, int32_t c, int words, int wide) {
  const uint8_t *const bytes = (const uint8_t *)x, *const w = (const uint8_t *)l->w;
  const int16_t *const halves = (const int16_t *)x;
  int64_t sum = wide ? ((const int64_t *)l->bias)[c] : ((const int32_t *)l->bias)[c];
  for (int32_t i = 0; i < l->kh && i <= oy + l->top; i++) {
    const int32_t y = (oy + l->top - i) / l->sh;
    if (y * l->sh != oy + l->top - i || y >= l->in_h) continue;
    for (int32_t j = 0; j < l->kw && j <= ox + l->left; j++) {
      const int32_t column = (ox + l->left - j) / l->sw;
      const int32_t from = (y * l->in_w + column) * l->in_c, at = ((c * l->kh + i) * l->kw + j) * l->in_c;
      if (column * l->sw != ox + l->left - j || column >= l->in_w) continue;
      for (int32_t k = 0; k < l->in_c; k++)
        sum += words ? halves[from + k] * l->w[at + k]
                     : (bytes[from + k] - (uint8_t)l->zero) * (w[at + k] - l->weight_zero);
    }
  }
  return sum;
}

Q_INLINE void q_transpose_bytes(const q_transposed *l, const uint8_t *x, uint8_t *y, int kind) {
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c)
    for (int32_t oy = 0; oy < l->out_h; oy++)
      for (int32_t ox = 0; ox < l->out_w; ox++)
        for (int32_t c = 0; c < l->out_c; c++)
          *y++ = (uint8_t)q_code((int32_t)q_tapped(l, x, oy, ox, c, 0, 0), &l->r, c, kind);
}

Q_INLINE void q_transpose_wide(const q_transposed *l, const int16_t *x, int16_t *y, int kind, int wide) {
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c)
    for (int32_t oy = 0; oy < l->out_h; oy++)
      for (int32_t ox = 0; ox < l->out_w; ox++)
        for (int32_t c = 0; c < l->out_c; c++) {
          const int64_t sum = q_tapped(l, x, oy, ox, c, 1, wide);
          *y++ = (int16_t)(wide ? q_code64(sum, &l->r, c, kind) : q_code((int32_t)sum, &l->r, c, kind));
        }
}
