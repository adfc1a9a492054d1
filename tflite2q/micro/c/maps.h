/* Pooling, look-ups, softmax, positions of extrema. */

typedef struct {
  uint16_t in_h, in_w, channels, out_h, out_w, top, left, batch;
  uint16_t kh, kw, sh, sw;
  int32_t low, high;
} q_pool;

Q_INLINE int32_t q_average(int32_t sum, int32_t count) {
  return sum < 0 ? -((-sum + count / 2) / count) : (sum + count / 2) / count;
}

/* Windows of any integer type, row by row. */
#define Q_POOL(NAME, TYPE, MAXIMUM)                                                                      \
  Q_KERNEL void NAME(const q_pool *l, const TYPE *x, TYPE *y) {                                          \
    for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->channels)                         \
      for (int32_t oy = 0; oy < l->out_h; oy++)                                                          \
        for (int32_t ox = 0; ox < l->out_w; ox++, y += l->channels) {                                    \
          int32_t y0 = oy * l->sh - l->top, x0 = ox * l->sw - l->left, y1 = y0 + l->kh, x1 = x0 + l->kw; \
          if (y1 > l->in_h) y1 = l->in_h;                                                                \
          if (x1 > l->in_w) x1 = l->in_w;                                                                \
          if (y0 < 0) y0 = 0;                                                                            \
          if (x0 < 0) x0 = 0;                                                                            \
          for (int32_t c = 0; c < l->channels; c++) {                                                    \
            int32_t all = MAXIMUM ? -32768 : 0;                                                          \
            for (int32_t i = y0; i < y1; i++) {                                                          \
              const TYPE *p = x + (i * l->in_w + x0) * l->channels + c;                                  \
              for (int32_t j = x0; j < x1; j++, p += l->channels)                                        \
                if (!MAXIMUM) all += *p;                                                                 \
                else if (*p > all) all = *p;                                                             \
            }                                                                                            \
            if (!MAXIMUM) all = q_average(all, (y1 - y0) * (x1 - x0));                                   \
            y[c] = (TYPE)q_clamp(all, l->low, l->high);                                                  \
          }                                                                                              \
        }                                                                                                \
  }

/* table: what codes become, those of 0 to 127 (255) first, so that a code as a byte is the index. */
#define Q_LOOKUP(NAME, TYPE)                                                              \
  Q_KERNEL void NAME(const TYPE *table, const uint8_t *x, TYPE *y, int32_t n) {           \
    for (int32_t i = 0; i < n; i++) y[i] = table[x[i]];                                   \
  }

/* 1 / (1 + a), a and result Q0.31: gemmlowp's three Newton steps. */
Q_INLINE int32_t q_times31(int32_t a, int32_t b) { return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31); }
Q_INLINE int32_t q_saturated31(int64_t v) {
  return v > INT32_MAX ? INT32_MAX : v < INT32_MIN ? INT32_MIN : (int32_t)v;
}
Q_INLINE int32_t q_reciprocal(int32_t a) {
  const int32_t half = (int32_t)(((int64_t)a + ((int64_t)1 << 31)) >> 1);
  int64_t x = 1515870810 + (int64_t)q_times31(half, -1010580540);
  for (int i = 0; i < 3; i++) {
    const int32_t rest = (1 << 29) - q_times31(half, (int32_t)x);
    x += q_saturated31((int64_t)q_times31((int32_t)x, rest) * 4);
  }
  return q_saturated31(x * 2);
}
Q_INLINE int32_t q_zeros(uint32_t v) {
  int32_t n = 0;
  if (v == 0) return 32;
  for (; !(v >> 31); v <<= 1) n++;
  return n;
}

/* Rows of 8-bit codes; e: exponentials of differences to the largest code, Q0.31; low: the lowest code; bits: more
   bits of the result. */
#define Q_SOFTMAX(NAME, TYPE, RESULT)                                                                            \
  Q_KERNEL void NAME(const int32_t *e, const TYPE *x, RESULT *y, int32_t rows, int32_t n, int32_t low,           \
                     int32_t high, int32_t bits) {                                                               \
    for (int32_t r = 0; r < rows; r++, x += n, y += n) {                                                         \
      int32_t top = x[0];                                                                                        \
      uint64_t sum = 0; /* saturates at 2^31, where every share is 0 */                                          \
      for (int32_t i = 1; i < n; i++) if (x[i] > top) top = x[i];                                                \
      for (int32_t i = 0; i < n; i++) sum += ((uint32_t)e[top - x[i]] + (1 << 11)) >> 12;                        \
      const int32_t zeros = q_zeros(sum >> 31 ? 0x80000000u : (uint32_t)sum), shift = 12 + 31 - 8 - zeros - bits;                                    \
      const int32_t inverse = sum >> 31 ? 0 : q_reciprocal((int32_t)((uint32_t)(sum << zeros) - 0x80000000u));             \
      for (int32_t i = 0; i < n; i++) {                                                                          \
        const int64_t share = q_times31(inverse, e[top - x[i]]);                                                 \
        const int64_t code = ((share + ((int64_t)1 << (shift - 1))) >> shift) + low;                             \
        y[i] = (RESULT)(sum >> 31 || code < low ? low : code > high ? high : code);                              \
      }                                                                                                          \
    }                                                                                                            \
  }

/* The first of the best of n elements that lie `inner` apart. */
#define Q_ARG(NAME, TYPE, INDEX, BETTER)                                                          \
  Q_KERNEL void NAME(const TYPE *x, INDEX *y, int32_t rows, int32_t n, int32_t inner) {           \
    for (int32_t r = 0; r < rows; r++, x += n * inner)                                            \
      for (int32_t k = 0; k < inner; k++) {                                                       \
        int32_t best = 0;                                                                         \
        for (int32_t i = 1; i < n; i++) if (x[i * inner + k] BETTER x[best * inner + k]) best = i; \
        *y++ = best;                                                                              \
      }                                                                                           \
  }
