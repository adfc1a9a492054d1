/* Depthwise 3x3 windows, strides 1 or 2, by two products of halves at once.

   Three rows of the image lie apart by channels in a ring, as halves: a word holds two neighbours of one channel.  A
   row is read once and gone, so that results may take the image's place. */

Q_INLINE int32_t q_low_high(uint32_t a, uint32_t b, int32_t sum) { /* lower half of a, upper of b */
#if defined(Q_DSP)
  int32_t r;
  __asm__("smlabt %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(sum));
  return r;
#else
  return sum + (int16_t)a * (int16_t)(b >> 16);
#endif
}

Q_INLINE void q_apart(uint32_t a, uint32_t b, uint32_t *to, int32_t step, int bytes) {
  const uint32_t ae = q_halves_even(a, bytes), ao = q_halves_odd(a, bytes);
  const uint32_t be = q_halves_even(b, bytes), bo = q_halves_odd(b, bytes);
  to[0] = (ae & 0xFFFF) | (be << 16);
  to[step] = (ao & 0xFFFF) | (bo << 16);
  to[2 * step] = (ae >> 16) | (be & 0xFFFF0000u);
  to[3 * step] = (ao >> 16) | (bo & 0xFFFF0000u);
}

/* Row y of the image to `to` [in_c][step] words; what is outside is the zero point. */
Q_INLINE void q_ring_row(const q_depthwise *l, const int8_t *x, int32_t y, uint32_t *to, int32_t step, int bytes) {
  const uint32_t zeros = (uint8_t)l->zero * 0x01010101u;
  if (y < 0 || y >= l->in_h) {
    const uint32_t pair = (uint16_t)q_element(l->zero, bytes) * 0x00010001u;
    for (int32_t i = 0; i < l->in_c * step; i++) to[i] = pair;
    return;
  }
  const int32_t columns = l->in_c;
  for (int32_t c = 0; c < columns; c += 4, to += 4 * step) {
    const int8_t *p = x + y * l->in_w * columns + c;
    int32_t left = l->in_w, j = 0;
    if (l->left) {
      q_apart(zeros, q_word(p), to, step, bytes);
      p += columns;
      left--;
      j = 1;
    }
    uint32_t *at = to + j;
    for (; left >= 2; left -= 2, j++) {
      const uint32_t a = q_word(p), b = q_word(p + columns);
      p += 2 * columns;
      q_apart(a, b, at++, step, bytes);
    }
    if (left) {
      q_apart(q_word(p), zeros, at++, step, bytes);
      j++;
    }
    for (; j < step; j++) q_apart(zeros, zeros, at++, step, bytes);
  }
}

/* Halves of weights, without their zero point. */
Q_INLINE uint32_t q_centred(const q_depthwise *l, uint32_t halves) {
  return ((halves | 0x80008000u) - l->weight_zero * 0x00010001u) ^ 0x80008000u;
}
Q_INLINE uint32_t q_even_weight(const q_depthwise *l, uint32_t w, int bytes) {
  return bytes ? q_centred(l, q_halves_even(w, bytes)) : q_even(w);
}
Q_INLINE uint32_t q_odd_weight(const q_depthwise *l, uint32_t w, int bytes) {
  return bytes ? q_centred(l, q_halves_odd(w, bytes)) : q_odd(w);
}

/* w: [channel][9]; scratch: [3][in_c][step] words, then weights of 4 bits as bytes. */
Q_INLINE void q_rings(const q_depthwise *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind, int bytes) {
  const int32_t step = (l->in_w + l->left + 3) / 2, slot = l->in_c * step, columns = l->out_c;
  uint32_t *const ring = (uint32_t *)(void *)scratch;
  const q_rescale r = l->r;
  const int8_t *weights = (const int8_t *)l->w;
  if (l->narrow) {
    q_unpack((const uint8_t *)l->w, scratch + 12 * slot, 9 * columns);
    weights = scratch + 12 * slot;
  }
  int32_t next = -l->top;
  for (int32_t oy = 0; oy < l->out_h; oy++) {
    const int32_t first = oy * l->sh - l->top;
    if (next < first) next = first;
    for (; next < first + 3; next++) q_ring_row(l, x, next, ring + (next + l->top) % 3 * slot, step, bytes);
    const uint32_t *p0 = ring + (first + l->top) % 3 * slot, *p1 = ring + (first + l->top + 1) % 3 * slot;
    const uint32_t *p2 = ring + (first + l->top + 2) % 3 * slot;
    const int8_t *w = weights;
    for (int32_t c = 0; c < columns; c++, w += 9, p0 += step, p1 += step, p2 += step, y++) {
      const uint32_t u0 = q_word(w), u1 = q_word(w + 3), u2 = q_word(w + 6);
      const uint32_t e0 = q_even_weight(l, u0, bytes), e1 = q_even_weight(l, u1, bytes), e2 = q_even_weight(l, u2, bytes);
      const uint32_t o0 = q_odd_weight(l, u0, bytes), o1 = q_odd_weight(l, u1, bytes), o2 = q_odd_weight(l, u2, bytes);
      const uint32_t a0 = (e0 & 0xFFFF) | (o0 << 16), a1 = (e1 & 0xFFFF) | (o1 << 16), a2 = (e2 & 0xFFFF) | (o2 << 16);
      const uint32_t b0 = (o0 & 0xFFFF) | (e0 & 0xFFFF0000u), b1 = (o1 & 0xFFFF) | (e1 & 0xFFFF0000u);
      const uint32_t b2 = (o2 & 0xFFFF) | (e2 & 0xFFFF0000u);
      const uint32_t *r0 = p0, *r1 = p1, *r2 = p2;
      const int32_t word = l->bias[c], bias = q_first(word, kind), m = Q_TIED(kind) ? r.m[c] : 0;
      int32_t left = l->out_w;
      int8_t *to = y;
#define Q_TWO(R, A, B)            \
  Q_ORDER;                        \
  {                               \
    const uint32_t u = (R)[0], v = (R)[1]; \
    a = q_dual(u, A, a);          \
    b = q_low_high(A, u, b);      \
    a = q_low_high(v, B, a);      \
    b = q_dual(v, B, b);          \
    (R)++;                        \
  }
#define Q_ONE(R, A, B)            \
  Q_ORDER;                        \
  a = q_low_high((R)[1], B, q_dual((R)[0], A, a)); \
  (R)++;
      if (l->sw == 1) {
        for (; left >= 2; left -= 2) {
          int32_t a = bias, b = bias;
          Q_TWO(r0, a0, b0)
          Q_TWO(r1, a1, b1)
          Q_TWO(r2, a2, b2)
          Q_ORDER;
          *to = (int8_t)(Q_TIED(kind) ? q_fixed(a, m, word, &r, kind) : q_code(a, &r, c, kind));
          to += columns;
          *to = (int8_t)(Q_TIED(kind) ? q_fixed(b, m, word, &r, kind) : q_code(b, &r, c, kind));
          to += columns;
        }
      }
      for (; left > 0; left--) {
        int32_t a = bias;
        Q_ONE(r0, a0, b0)
        Q_ONE(r1, a1, b1)
        Q_ONE(r2, a2, b2)
        Q_ORDER;
        *to = (int8_t)(Q_TIED(kind) ? q_fixed(a, m, word, &r, kind) : q_code(a, &r, c, kind));
        to += columns;
      }
    }
    y += (l->out_w - 1) * columns;
  }
}

Q_INLINE void q_depthwise_3x3(const q_depthwise *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_rings(l, x, y, scratch, kind, 0);
}

Q_INLINE void q_depthwise_3x3_bytes(const q_depthwise *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_rings(l, x, y, scratch, kind, 1);
}
