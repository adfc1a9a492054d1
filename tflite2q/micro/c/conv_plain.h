/* Convolutions and dense layers on any processor: two pixels by two channels at a time. */

Q_INLINE void q_block_plain(const q_conv *l, const int8_t *x0, const int8_t *x1, int8_t *y0, int8_t *y1, int32_t first,
                            int32_t last, int8_t *unpacked, int kind, int bytes) {
  const int32_t s0 = q_offset(l, x0, bytes), s1 = q_offset(l, x1, bytes);
  int32_t c = first;
  for (; c + 1 < last; c += 2) {
    const int8_t *w0 = q_row(l, c, unpacked), *w1 = q_row(l, c + 1, unpacked + l->stride);
    const int32_t n0 = l->bias[c], n1 = l->bias[c + 1];
    int32_t a = q_first(n0, kind), b = q_first(n1, kind), d = a + s1, e = b + s1;
    a += s0;
    b += s0;
    for (int32_t k = 0; k < l->depth; k++) {
      const int32_t p = q_element(x0[k], bytes), q = q_element(x1[k], bytes);
      const int32_t u = q_element(w0[k], bytes), v = q_element(w1[k], bytes);
      a += p * u;
      b += p * v;
      d += q * u;
      e += q * v;
    }
    y0[c] = (int8_t)q_last(a, n0, &l->r, c, kind);
    y0[c + 1] = (int8_t)q_last(b, n1, &l->r, c + 1, kind);
    y1[c] = (int8_t)q_last(d, n0, &l->r, c, kind);
    y1[c + 1] = (int8_t)q_last(e, n1, &l->r, c + 1, kind);
  }
  for (; c < last; c++) {
    const int8_t *w0 = q_row(l, c, unpacked);
    const int32_t n = l->bias[c];
    int32_t a = q_first(n, kind) + s0, d = q_first(n, kind) + s1;
    for (int32_t k = 0; k < l->depth; k++) {
      a += q_element(x0[k], bytes) * q_element(w0[k], bytes);
      d += q_element(x1[k], bytes) * q_element(w0[k], bytes);
    }
    y0[c] = (int8_t)q_last(a, n, &l->r, c, kind);
    y1[c] = (int8_t)q_last(d, n, &l->r, c, kind);
  }
}

/* scratch: two rows of the image, then two rows of weights, if they are unpacked. */
Q_INLINE void q_by_rows(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind, int bytes) {
  const int32_t pixels = l->out_h * l->out_w, direct = q_pointwise(l), per = l->out_c / l->groups;
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c, y += pixels * l->out_c) {
    for (int32_t p = 0; p < pixels; p += 2) {
      const int32_t q = p + 1 < pixels ? p + 1 : p;
      for (int32_t g = 0; g < l->groups; g++) {
        const int8_t *x0 = x + p * l->in_c, *x1 = x + q * l->in_c;
        if (!direct) {
          q_patch(l, x, p / l->out_w, p % l->out_w, g, scratch);
          q_patch(l, x, q / l->out_w, q % l->out_w, g, scratch + l->depth);
          x0 = scratch;
          x1 = scratch + l->depth;
        }
        q_block_plain(l, x0, x1, y + p * l->out_c, y + q * l->out_c, g * per, (g + 1) * per,
                      scratch + (direct ? 0 : 2 * l->depth), kind, bytes);
      }
    }
  }
}

Q_INLINE void q_convolve(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_by_rows(l, x, y, scratch, kind, 0);
}

Q_INLINE void q_convolve_bytes(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_by_rows(l, x, y, scratch, kind, 1);
}
