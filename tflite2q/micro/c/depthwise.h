/* Depthwise convolutions on any processor; output channel c reads input channel c / multiplier. */

typedef struct {
  const void *w;       /* [kh][kw][out_c], unless the kernel says otherwise */
  const int32_t *bias; /* in tied kinds with the shift; without the input's zero point, unless the kernel says so */
  q_rescale r;
  uint16_t in_h, in_w, in_c, out_h, out_w, out_c;
  uint16_t top, left, multiplier, batch;
  uint8_t kh, kw, sh, sw, dh, dw;
  int8_t zero, narrow;
  uint8_t weight_zero; /* of kernels for bytes, whose weights are uint8 */
} q_depthwise;

Q_INLINE int32_t q_weight(const q_depthwise *l, int32_t at) {
  if (!l->narrow) return ((const int8_t *)l->w)[at];
  const uint8_t two = ((const uint8_t *)l->w)[at >> 1];
  return (int32_t)(((at & 1 ? two >> 4 : two & 15) ^ 8)) - 8;
}

Q_INLINE void q_windows(const q_depthwise *l, const int8_t *x, int8_t *y, int kind, int bytes) {
  const int32_t zero = q_element(l->zero, bytes), weight_zero = bytes ? l->weight_zero : 0;
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c) {
    for (int32_t oy = 0; oy < l->out_h; oy++) {
      const int32_t y0 = oy * l->sh - l->top;
      for (int32_t ox = 0; ox < l->out_w; ox++, y += l->out_c) {
        const int32_t x0 = ox * l->sw - l->left;
        for (int32_t c = 0, ic = 0, k = 0; c < l->out_c; c++) {
          int32_t a = q_first(l->bias[c], kind);
          for (int32_t i = 0, r = y0; i < l->kh; i++, r += l->dh) {
            if (r < 0 || r >= l->in_h) continue;
            for (int32_t j = 0, s = x0; j < l->kw; j++, s += l->dw) {
              if (s < 0 || s >= l->in_w) continue;
              const int32_t w = q_element((int8_t)q_weight(l, (i * l->kw + j) * l->out_c + c), bytes) - weight_zero;
              a += (q_element(x[(r * l->in_w + s) * l->in_c + ic], bytes) - zero) * w;
            }
          }
          y[c] = (int8_t)q_last(a, l->bias[c], &l->r, c, kind);
          if (++k == l->multiplier) k = 0, ic++;
        }
      }
    }
  }
}

Q_INLINE void q_depthwise_plain(const q_depthwise *l, const int8_t *x, int8_t *y, int kind) {
  q_windows(l, x, y, kind, 0);
}

Q_INLINE void q_depthwise_plain_bytes(const q_depthwise *l, const int8_t *x, int8_t *y, int kind) {
  q_windows(l, x, y, kind, 1);
}
