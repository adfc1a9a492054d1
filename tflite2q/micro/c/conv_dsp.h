/* Convolutions and dense layers by two products of halves at once: two pixels by two channels.

   Pixels are widened to halves once for all channels, in the order in which sxtb16 takes bytes apart: of every four taps
   first those of one pixel, then of the other, each as (0, 2) and (1, 3).  Weights are taken apart on the way. */

Q_INLINE void q_widen(const int8_t *row, uint32_t *to, int32_t n) {
  for (int32_t k = 0; k < n; k += 4, to += 4) {
    const uint32_t w = q_word(row + k);
    to[0] = q_even(w);
    to[1] = q_odd(w);
  }
}

Q_INLINE void q_block(const q_conv *l, const uint32_t *x, int8_t *y0, int8_t *y1, int32_t first, int32_t last,
                      int8_t *unpacked, int kind) {
  const uint32_t *const end = x + l->stride;
  for (int32_t c = first; c < last; c += 2) {
    const int32_t other = c + 1 < last ? c + 1 : c; /* the last of an odd number is computed twice */
    const int8_t *w0 = q_row(l, c, unpacked), *w1 = q_row(l, other, unpacked + l->stride);
    int32_t a = l->bias[c], b = l->bias[other], d = a, e = b;
    const uint32_t *p = x;
    do {
      const uint32_t u = q_word(w0), v = q_word(w1);
      const uint32_t ue = q_even(u), uo = q_odd(u), ve = q_even(v), vo = q_odd(v);
      w0 += 4;
      w1 += 4;
      a = q_dual(ue, p[0], a);
      b = q_dual(ve, p[0], b);
      a = q_dual(uo, p[1], a);
      b = q_dual(vo, p[1], b);
      d = q_dual(ue, p[2], d);
      e = q_dual(ve, p[2], e);
      d = q_dual(uo, p[3], d);
      e = q_dual(vo, p[3], e);
      p += 4;
    } while (p != end);
    y0[c] = (int8_t)q_code(a, &l->r, c, kind);
    y0[other] = (int8_t)q_code(b, &l->r, other, kind);
    if (y1 != y0) {
      y1[c] = (int8_t)q_code(d, &l->r, c, kind);
      y1[other] = (int8_t)q_code(e, &l->r, other, kind);
    }
  }
}

/* One row, as it lies in memory, by four channels. */
Q_INLINE void q_single(const q_conv *l, const int8_t *x, int8_t *y, int8_t *unpacked, int kind) {
  for (int32_t c = 0; c < l->out_c; c += 2) {
    const int32_t other = c + 1 < l->out_c ? c + 1 : c;
    const int8_t *w0 = q_row(l, c, unpacked), *w1 = q_row(l, other, unpacked + l->stride);
    int32_t a = l->bias[c], b = l->bias[other];
    const int8_t *p = x, *const end = x + l->stride;
    do {
      const uint32_t t = q_word(p), u = q_word(w0), v = q_word(w1), te = q_even(t), to = q_odd(t);
      p += 4;
      w0 += 4;
      w1 += 4;
      a = q_dual(q_even(u), te, a);
      a = q_dual(q_odd(u), to, a);
      b = q_dual(q_even(v), te, b);
      b = q_dual(q_odd(v), to, b);
    } while (p != end);
    y[c] = (int8_t)q_code(a, &l->r, c, kind);
    y[other] = (int8_t)q_code(b, &l->r, other, kind);
  }
}

/* scratch: two rows of halves, one of bytes, then two rows of weights, if they are unpacked. */
Q_INLINE void q_convolve(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  const int32_t pixels = l->out_h * l->out_w, per = l->out_c / l->groups;
  const int direct = q_pointwise(l) && l->depth == l->stride;
  uint32_t *const halves = (uint32_t *)(void *)scratch;
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c, y += pixels * l->out_c) {
    if (direct && pixels == 1) {
      q_single(l, x, y, scratch, kind);
      continue;
    }
    int8_t *const bytes = scratch + 4 * l->stride, *const unpacked = bytes + (direct ? 0 : l->stride);
    for (int32_t p = 0, oy = 0, ox = 0; p < pixels; p += 2) {
      const int alone = p + 1 == pixels;
      int32_t qy = oy, qx = ox + 1;
      if (qx == l->out_w) qx = 0, qy++;
      for (int32_t g = 0; g < l->groups; g++) {
        if (direct) {
          q_widen(x + p * l->in_c, halves, l->stride);
          if (!alone) q_widen(x + (p + 1) * l->in_c, halves + 2, l->stride);
        } else {
          q_patch(l, x, oy, ox, g, bytes);
          q_widen(bytes, halves, l->stride);
          if (!alone) {
            q_patch(l, x, qy, qx, g, bytes);
            q_widen(bytes, halves + 2, l->stride);
          }
        }
        int8_t *const y0 = y + p * l->out_c;
        q_block(l, halves, y0, alone ? y0 : y0 + l->out_c, g * per, (g + 1) * per, unpacked, kind);
      }
      oy = qy;
      ox = qx + 1;
      if (ox == l->out_w) ox = 0, oy++;
    }
  }
}
