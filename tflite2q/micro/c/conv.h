/* Convolutions and dense layers: geometry, and patches of the image as rows of bytes. */

typedef struct {
  const void *w;       /* rows of `stride` bytes, zeros at their ends; 4-bit weights eight in a word */
  const int32_t *bias; /* the input's zero point is in it, and in tied kinds the shift */
  q_rescale r;
  const int32_t *pairs; /* of two or four channels: biases, and in tied kinds multipliers */
  int32_t depth, stride;
  uint16_t in_h, in_w, in_c, out_h, out_w, out_c;
  uint16_t top, left, groups, batch;
  uint8_t kh, kw, sh, sw, dh, dw;
  int8_t zero, narrow; /* narrow: weights of 4 bits */
  uint8_t weight_zero; /* of kernels for bytes, whose weights are uint8 */
} q_conv;

/* A copy of a few bytes, without a call. */
Q_INLINE void q_move(int8_t *to, const int8_t *from, int32_t n) {
#if defined(Q_MVE)
  for (; n > 0; n -= 16, to += 16, from += 16) {
    const mve_pred16_t p = vctp8q((uint32_t)n);
    vstrbq_p_s8(to, vldrbq_z_s8(from, p), p);
  }
#else
  for (; n >= 8; n -= 8, to += 8, from += 8) {
    const uint32_t a = q_word(from), b = q_word(from + 4);
    q_copy(to, &a, 4);
    q_copy(to + 4, &b, 4);
  }
  for (; n > 0; n--) *to++ = *from++;
#endif
}

/* The taps of one output pixel in one group, [kh][kw][in_c / groups]; outside the image is the zero point. */
Q_INLINE void q_patch(const q_conv *l, const int8_t *x, int32_t oy, int32_t ox, int32_t g, int8_t *row) {
  const int32_t run = l->in_c / l->groups, x0 = ox * l->sw - l->left;
  for (int32_t i = 0; i < l->kh; i++) {
    const int32_t y = oy * l->sh - l->top + i * l->dh;
    if (y < 0 || y >= l->in_h) {
      q_fill(row, l->zero, (size_t)(l->kw * run));
      row += l->kw * run;
    } else if (l->dw == 1 && l->groups == 1) {
      int32_t before = x0 < 0 ? -x0 : 0, after = x0 + l->kw - l->in_w;
      if (before > l->kw) before = l->kw;
      if (after < 0) after = 0;
      if (after > l->kw) after = l->kw;
      const int32_t inside = l->kw - before - after;
      if (before) q_fill(row, l->zero, (size_t)(before * run));
      if (inside > 0) q_move(row + before * run, x + (y * l->in_w + x0 + before) * run, inside * run);
      if (after) q_fill(row + (l->kw - after) * run, l->zero, (size_t)(after * run));
      row += l->kw * run;
    } else {
      for (int32_t j = 0; j < l->kw; j++, row += run) {
        const int32_t at = x0 + j * l->dw;
        if (at < 0 || at >= l->in_w) q_fill(row, l->zero, (size_t)run);
        else q_copy(row, x + (y * l->in_w + at) * l->in_c + g * run, (size_t)run);
      }
    }
  }
}

/* Whether rows are what lies in memory. */
Q_INLINE int q_pointwise(const q_conv *l) {
  return l->kh == 1 && l->kw == 1 && l->sh == 1 && l->sw == 1 && l->groups == 1 && l->top == 0 && l->left == 0 &&
         l->out_h == l->in_h && l->out_w == l->in_w;
}

/* n 4-bit weights, a multiple of eight, as bytes: a word has four in the low halves of its bytes, then four in the high
   ones. */
Q_INLINE void q_unpack(const uint8_t *w, int8_t *to, int32_t n) {
  for (int32_t i = 0; i < n; i += 8, w += 4) {
    const uint32_t u = q_word(w);
    const uint32_t a = (((u & 0x0F0F0F0Fu) ^ 0x08080808u) + 0x78787878u) ^ 0x80808080u; /* each less 8, if above 7 */
    const uint32_t b = ((((u >> 4) & 0x0F0F0F0Fu) ^ 0x08080808u) + 0x78787878u) ^ 0x80808080u;
    q_copy(to + i, &a, 4);
    q_copy(to + i + 4, &b, 4);
  }
}

/* What the weights' zero point adds to each sum over a row of bytes; 0 for other kernels. */
Q_INLINE int32_t q_offset(const q_conv *l, const int8_t *row, int bytes) {
  int32_t sum = 0;
  if (bytes) for (int32_t k = 0; k < l->depth; k++) sum += (uint8_t)row[k];
  return -l->weight_zero * sum;
}

/* A row of weights as bytes; those of 4 bits fill up the last eight, which may be four more than the row's stride. */
Q_INLINE const int8_t *q_row(const q_conv *l, int32_t c, int8_t *unpacked) {
  if (!l->narrow) return (const int8_t *)l->w + (size_t)c * (size_t)l->stride;
  q_unpack((const uint8_t *)l->w + c * ((l->depth + 7) / 8 * 4), unpacked, l->depth);
  return unpacked;
}
