/* Convolutions and dense layers by two products of halves at once.

   Pixels are widened to halves once for all channels, in the order in which sxtb16 takes bytes apart: of every four taps
   (0, 2) and (1, 3).  Two pixels lie side by side, and so do the weights of two channels (of four for a single pixel),
   four taps of each in turn: one pointer each. */

Q_INLINE void q_widen(const int8_t *row, uint32_t *to, int32_t n, int32_t step, int bytes) {
  for (const int8_t *const end = row + n; row != end; row += 4, to += step) {
    const uint32_t w = q_word(row);
    to[0] = q_halves_even(w, bytes);
    to[1] = q_halves_odd(w, bytes);
  }
}

/* Eight products of two channels and two pixels, twice. */
#define Q_TAPS(W, P)                                                                            \
  do {                                                                                          \
    const uint32_t u = (W)[0], v = (W)[1], ue = q_halves_even(u, bytes), uo = q_halves_odd(u, bytes); \
    const uint32_t ve = q_halves_even(v, bytes), vo = q_halves_odd(v, bytes);                   \
    a = q_dual(ue, (P)[0], a);                                                                  \
    b = q_dual(ve, (P)[0], b);                                                                  \
    a = q_dual(uo, (P)[1], a);                                                                  \
    b = q_dual(vo, (P)[1], b);                                                                  \
    d = q_dual(ue, (P)[2], d);                                                                  \
    e = q_dual(ve, (P)[2], e);                                                                  \
    d = q_dual(uo, (P)[3], d);                                                                  \
    e = q_dual(vo, (P)[3], e);                                                                  \
  } while (0)

/* Two codes of two channels c and d = c + 1, or c itself. */
#define Q_STORE(Y, A, B)                                                      \
  do {                                                                        \
    (Y)[c] = (int8_t)q_last(A, n0, &r, c, kind);                              \
    if (c + 1 < last) (Y)[c + 1] = (int8_t)q_last(B, n1, &r, c + 1, kind);    \
  } while (0)

Q_INLINE void q_block_dsp(const q_conv *l, const uint32_t *x, int8_t *y0, int8_t *y1, const int32_t *offsets,
                          int8_t *unpacked, int kind, int narrow, int bytes) {
  const uint8_t *packed = (const uint8_t *)l->w;
  const uint32_t *w = (const uint32_t *)l->w;
  const q_rescale r = l->r;
  const int32_t *t = l->pairs;
  const uint32_t *const end = x + l->stride;
  const int twice = (l->stride & 7) == 0, step = Q_TIED(kind) ? 4 : 2;
  for (int32_t left = l->out_c; left > 0; left -= 2, t += step, y0 += 2, y1 += 2) {
    int32_t a = q_first(t[0], kind), b = q_first(t[1], kind), d = a, e = b;
    const uint32_t *p = x;
    if (bytes) a += offsets[0], b += offsets[0], d += offsets[1], e += offsets[1];
    if (narrow) {
      q_unpack(packed, unpacked, 2 * l->stride);
      packed += l->stride;
      w = (const uint32_t *)(void *)unpacked;
    }
    if (twice) {
      do {
        Q_TAPS(w, p);
        Q_ORDER;
        Q_TAPS(w + 2, p + 4);
        w += 4;
        p += 8;
      } while (p != end);
    } else {
      do {
        Q_TAPS(w, p);
        w += 2;
        p += 4;
      } while (p != end);
    }
    if (Q_TIED(kind)) {
      Q_ORDER; /* words are read again: registers are few */
      const int32_t n0 = t[0], n1 = t[1];
      y1[0] = (int8_t)q_fixed(d, t[2], n0, &r, kind); /* a single pixel is stored twice, the right one last */
      y0[0] = (int8_t)q_fixed(a, t[2], n0, &r, kind);
      if (left == 1) break;
      y1[1] = (int8_t)q_fixed(e, t[3], n1, &r, kind);
      y0[1] = (int8_t)q_fixed(b, t[3], n1, &r, kind);
    } else {
      const int32_t c = l->out_c - left;
      y1[0] = (int8_t)q_code(d, &r, c, kind);
      y0[0] = (int8_t)q_code(a, &r, c, kind);
      if (left == 1) break;
      y1[1] = (int8_t)q_code(e, &r, c + 1, kind);
      y0[1] = (int8_t)q_code(b, &r, c + 1, kind);
    }
  }
}

/* Pixels by pairs.  scratch: two rows of halves, one of bytes, two of weights. */
Q_INLINE void q_by_pairs(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind, int narrow, int bytes) {
  const int32_t pixels = l->out_h * l->out_w, stride = l->stride;
  const int direct = q_pointwise(l) && l->depth == stride;
  uint32_t *const halves = (uint32_t *)(void *)scratch;
  int8_t *const patch = scratch + 4 * stride;
  int32_t offsets[2] = {0, 0};
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c) {
    const int8_t *at = x;
    int32_t oy = 0, ox = 0;
    for (int32_t p = 0; p < pixels; p += 2, y += 2 * l->out_c) {
      const int pair = p + 1 < pixels;
      for (int32_t k = 0; k <= pair; k++) {
        const int8_t *const row = direct ? at : patch;
        if (!direct) q_patch(l, x, oy, ox, 0, patch);
        q_widen(row, halves + 2 * k, stride, 4, bytes);
        if (bytes) offsets[k] = q_offset(l, row, bytes);
        at += stride;
        if (++ox == l->out_w) ox = 0, oy++;
      }
      if (bytes && !pair) offsets[1] = offsets[0];
      q_block_dsp(l, halves, y, pair ? y + l->out_c : y, offsets, scratch + (direct ? 4 : 5) * stride, kind, narrow,
                  bytes);
    }
    if (pixels & 1) y -= l->out_c;
  }
}

Q_INLINE void q_pairs(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_by_pairs(l, x, y, scratch, kind, 0, 0);
}

Q_INLINE void q_pairs_narrow(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_by_pairs(l, x, y, scratch, kind, 1, 0);
}

Q_INLINE void q_pairs_bytes(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_by_pairs(l, x, y, scratch, kind, 0, 1);
}

/* One pixel, by four channels; scratch: a row of halves. */
Q_INLINE void q_single(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  const q_rescale r = l->r;
  const int32_t last = l->out_c, words = l->stride / 2;
  uint32_t *const halves = (uint32_t *)(void *)scratch;
  for (int32_t row = 0; row < l->batch; row++, x += l->stride) {
    const uint32_t *w = (const uint32_t *)l->w;
    q_widen(x, halves, l->stride, 2, 0);
    for (int32_t c = 0; c < last; c += 4, y += 4) {
      int32_t sums[4];
      for (int32_t i = 0; i < 4; i++) sums[i] = c + i < last ? q_first(l->bias[c + i], kind) : 0;
      int32_t a = sums[0], b = sums[1], d = sums[2], e = sums[3];
      const uint32_t *p = halves, *const end = halves + words;
      do {
        const uint32_t even = p[0], odd = p[1];
        p += 2;
        a = q_dual(q_even(w[0]), even, a);
        a = q_dual(q_odd(w[0]), odd, a);
        b = q_dual(q_even(w[1]), even, b);
        b = q_dual(q_odd(w[1]), odd, b);
        d = q_dual(q_even(w[2]), even, d);
        d = q_dual(q_odd(w[2]), odd, d);
        e = q_dual(q_even(w[3]), even, e);
        e = q_dual(q_odd(w[3]), odd, e);
        w += 4;
      } while (p != end);
      sums[0] = a, sums[1] = b, sums[2] = d, sums[3] = e;
      for (int32_t i = 0; i < 4 && c + i < last; i++) y[i] = (int8_t)q_last(sums[i], l->bias[c + i], &r, c + i, kind);
    }
    if (last & 3) y -= 4 - (last & 3);
  }
}

/* Groups: rows as they are.  scratch: two rows of halves, one of bytes, two of weights. */
Q_INLINE void q_by_groups(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind, int bytes) {
  const int32_t pixels = l->out_h * l->out_w, per = l->out_c / l->groups, stride = l->stride;
  const q_rescale r = l->r;
  uint32_t *const halves = (uint32_t *)(void *)scratch;
  int8_t *const patch = scratch + 4 * stride, *const unpacked = patch + stride;
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c, y += pixels * l->out_c)
    for (int32_t p = 0; p < pixels; p += 2)
      for (int32_t g = 0; g < l->groups; g++) {
        const int pair = p + 1 < pixels;
        int32_t offsets[2] = {0, 0};
        for (int32_t k = 0; k <= pair; k++) {
          q_patch(l, x, (p + k) / l->out_w, (p + k) % l->out_w, g, patch);
          q_widen(patch, halves + 2 * k, stride, 4, bytes);
          if (bytes) offsets[k] = q_offset(l, patch, bytes);
        }
        const int32_t last = (g + 1) * per;
        for (int32_t c = g * per; c < last; c += 2) {
          const int32_t other = c + 1 < last ? c + 1 : c;
          const int8_t *w0 = q_row(l, c, unpacked), *w1 = q_row(l, other, unpacked + stride);
          const int32_t n0 = l->bias[c], n1 = l->bias[other];
          int32_t a = q_first(n0, kind), b = q_first(n1, kind), d = a, e = b;
          if (bytes) a += offsets[0], b += offsets[0], d += offsets[1], e += offsets[1];
          for (int32_t i = 0; i < stride; i += 4) {
            const uint32_t w[2] = {q_word(w0 + i), q_word(w1 + i)};
            Q_TAPS(w, halves + i);
          }
          int8_t *const y0 = y + p * l->out_c;
          Q_STORE(y0, a, b);
          if (pair) Q_STORE(y0 + l->out_c, d, e);
        }
      }
}

Q_INLINE void q_rows(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_by_groups(l, x, y, scratch, kind, 0);
}

Q_INLINE void q_rows_bytes(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_by_groups(l, x, y, scratch, kind, 1);
}
