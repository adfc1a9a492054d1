/* Images resized by the weighted mean of the four pixels around a position. */

typedef struct {
  const uint16_t *y0, *y1, *x0, *x1; /* neighbours of each row and column */
  const void *fy, *fx;               /* how far beyond the first: in 1/1024 (int16), or for uint8 as float */
  uint16_t in_h, in_w, channels, out_h, out_w, batch;
} q_resize;

/* Sums of int8 are at most 2^27, of int16 2^35. */
#define Q_RESIZE(NAME, TYPE, SUM)                                                                        \
  Q_KERNEL void NAME(const q_resize *l, const TYPE *x, TYPE *y) {                                        \
    for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->channels)                         \
      for (int32_t i = 0; i < l->out_h; i++)                                                             \
        for (int32_t j = 0; j < l->out_w; j++) {                                                         \
          const int32_t fy = ((const int16_t *)l->fy)[i], fx = ((const int16_t *)l->fx)[j];              \
          const SUM wa = (1024 - fy) * (1024 - fx), wb = (1024 - fy) * fx;                               \
          const SUM wd = fy * (1024 - fx), we = fy * fx;                                                 \
          const TYPE *a = x + (l->y0[i] * l->in_w + l->x0[j]) * l->channels;                             \
          const TYPE *b = x + (l->y0[i] * l->in_w + l->x1[j]) * l->channels;                             \
          const TYPE *d = x + (l->y1[i] * l->in_w + l->x0[j]) * l->channels;                             \
          const TYPE *e = x + (l->y1[i] * l->in_w + l->x1[j]) * l->channels;                             \
          for (int32_t c = 0; c < l->channels; c++) {                                                    \
            const SUM t = a[c] * wa + b[c] * wb + d[c] * wd + e[c] * we;                                 \
            *y++ = (TYPE)((t + (t > 0 ? 1 << 19 : -(1 << 19))) / (1 << 20));                             \
          }                                                                                              \
        }                                                                                                \
  }

/* v times two weights, each product rounded. */
Q_INLINE float q_weighted(uint8_t v, float down, float right) {
  float p = (float)v * down;
  Q_ROUNDED(p);
  p = p * right;
  Q_ROUNDED(p);
  return p;
}

Q_KERNEL void q_resize_uint8(const q_resize *l, const uint8_t *x, uint8_t *y) {
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->channels)
    for (int32_t i = 0; i < l->out_h; i++)
      for (int32_t j = 0; j < l->out_w; j++) {
        const float fy = ((const float *)l->fy)[i], fx = ((const float *)l->fx)[j], gy = 1.0f - fy, gx = 1.0f - fx;
        const uint8_t *a = x + (l->y0[i] * l->in_w + l->x0[j]) * l->channels;
        const uint8_t *b = x + (l->y1[i] * l->in_w + l->x0[j]) * l->channels;
        const uint8_t *d = x + (l->y0[i] * l->in_w + l->x1[j]) * l->channels;
        const uint8_t *e = x + (l->y1[i] * l->in_w + l->x1[j]) * l->channels;
        for (int32_t c = 0; c < l->channels; c++) {
          float t = q_weighted(a[c], gy, gx) + q_weighted(b[c], fy, gx);
          t += q_weighted(d[c], gy, fx);
          t += q_weighted(e[c], fy, fx);
          *y++ = (uint8_t)(int32_t)(t + 0.5f);
        }
      }
}
