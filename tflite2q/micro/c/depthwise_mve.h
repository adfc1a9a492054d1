/* Depthwise convolutions by sixteen channels at once (Helium).  The products of two taps are added in 16 bits, which
   weights from -127 to 127 never leave.  Tables of multipliers, shifts and biases have room for sixteen channels. */

#if defined(Q_MVE)
Q_INLINE int32x4_t q_quarter(int32x4_t a, int32x4_t m, int32x4_t n, int32_t zero) {
  int32x4_t h = vqrdmulhq_s32(a, m);
  h = vaddq_s32(h, vshrq_n_s32(h, 31));
  return vhaddq_n_s32(vshlq_s32(h, n), zero);
}

#define Q_ADD(EVEN, ODD)                          \
  do {                                            \
    const int16x8_t even = EVEN, odd = ODD;       \
    s0 = vaddq_s32(s0, vmovlbq_s16(even));        \
    s2 = vaddq_s32(s2, vmovltq_s16(even));        \
    s1 = vaddq_s32(s1, vmovlbq_s16(odd));         \
    s3 = vaddq_s32(s3, vmovltq_s16(odd));         \
  } while (0)

/* Sixteen channels, or those that `p` has. */
Q_INLINE void q_sixteen(const q_depthwise *l, const q_rescale *r, const int8_t *const *row, int32_t c, int32_t taps,
                        int8_t *y, mve_pred16_t p) {
  const int32_t columns = l->out_c;
  const int8_t *w = (const int8_t *)l->w + c;
  const int32x4x4_t bias = vld4q_s32(l->bias + c);
  int32x4_t s0 = bias.val[0], s1 = bias.val[1], s2 = bias.val[2], s3 = bias.val[3];
  int32_t t = 0;
  for (; t + 1 < taps; t += 2, w += 2 * columns) {
    int8x16_t x0 = vldrbq_z_s8(row[t] + c, p), w0 = vldrbq_z_s8(w, p);
    int16x8_t e = vmullbq_int_s8(x0, w0), o = vmulltq_int_s8(x0, w0);
    x0 = vldrbq_z_s8(row[t + 1] + c, p), w0 = vldrbq_z_s8(w + columns, p);
    Q_ADD(vaddq_s16(e, vmullbq_int_s8(x0, w0)), vaddq_s16(o, vmulltq_int_s8(x0, w0)));
  }
  if (t < taps) {
    const int8x16_t x0 = vldrbq_z_s8(row[t] + c, p), w0 = vldrbq_z_s8(w, p);
    Q_ADD(vmullbq_int_s8(x0, w0), vmulltq_int_s8(x0, w0));
  }
  const int32x4x4_t m = vld4q_s32(r->m + c);
  const int8x16_t n = vnegq_s8(vldrbq_s8(r->n + c));
  const int16x8_t ne = vmovlbq_s8(n), no = vmovltq_s8(n);
  s0 = q_quarter(s0, m.val[0], vmovlbq_s16(ne), r->zero);
  s1 = q_quarter(s1, m.val[1], vmovlbq_s16(no), r->zero);
  s2 = q_quarter(s2, m.val[2], vmovltq_s16(ne), r->zero);
  s3 = q_quarter(s3, m.val[3], vmovltq_s16(no), r->zero);
  const int16x8_t even = vqmovntq_s32(vqmovnbq_s32(vdupq_n_s16(0), s0), s2);
  const int16x8_t odd = vqmovntq_s32(vqmovnbq_s32(vdupq_n_s16(0), s1), s3);
  int8x16_t codes = vqmovntq_s16(vqmovnbq_s16(vdupq_n_s8(0), even), odd);
  codes = vmaxq_s8(vminq_s8(codes, vdupq_n_s8((int8_t)r->high)), vdupq_n_s8((int8_t)r->low));
  vstrbq_p_s8(y + c, codes, p);
}
#endif

/* The taps of one pixel, `row` their places. */
Q_INLINE void q_taps(const q_depthwise *l, const q_rescale *r, const int8_t *const *row, int32_t taps, int8_t *y,
                     int kind) {
  const int32_t columns = l->out_c;
#if defined(Q_MVE)
  if (kind == Q_FULL || kind == Q_FIXED) {
    int32_t c = 0;
    for (; c + 16 <= columns; c += 16) q_sixteen(l, r, row, c, taps, y, (mve_pred16_t)0xFFFF);
    if (c < columns) q_sixteen(l, r, row, c, taps, y, vctp8q((uint32_t)(columns - c)));
    return;
  }
#endif
  for (int32_t c = 0; c < columns; c++) {
    int32_t a = l->bias[c];
    for (int32_t t = 0; t < taps; t++) a += row[t][c] * ((const int8_t *)l->w)[t * columns + c];
    y[c] = (int8_t)q_code(a, r, c, kind);
  }
}

/* scratch: places of the taps, then a pixel of zero points; the input's zero point is in the biases. */
Q_INLINE void q_depthwise_lanes(const q_depthwise *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  const int8_t **const row = (const int8_t **)(void *)scratch;
  const int32_t kh = l->kh, kw = l->kw, in_h = l->in_h, in_w = l->in_w, in_c = l->in_c, dh = l->dh, dw = l->dw;
  const int32_t across = l->sw * in_c;
  const q_rescale rescale = l->r;
  int8_t *const outside = scratch + kh * kw * (int32_t)sizeof(int8_t *);
  q_fill(outside, l->zero, (size_t)in_c);
  for (int32_t n = 0; n < l->batch; n++, x += in_h * in_w * in_c)
    for (int32_t oy = 0; oy < l->out_h; oy++) {
      int moved = 0; /* whether the last pixel's taps were all inside */
      for (int32_t ox = 0; ox < l->out_w; ox++, y += l->out_c) {
        const int32_t y0 = oy * l->sh - l->top, x0 = ox * l->sw - l->left;
        const int inside = y0 >= 0 && y0 + (kh - 1) * dh < in_h && x0 >= 0 && x0 + (kw - 1) * dw < in_w;
        if (inside && moved) {
          for (int32_t t = 0; t < kh * kw; t++) row[t] += across;
        } else {
          const int8_t **to = row;
          for (int32_t i = 0, r = y0; i < kh; i++, r += dh)
            for (int32_t j = 0, s = x0; j < kw; j++, s += dw)
              *to++ = r < 0 || r >= in_h || s < 0 || s >= in_w ? outside : x + (r * in_w + s) * in_c;
        }
        moved = inside;
        q_taps(l, &rescale, row, kh * kw, y, kind);
      }
    }
}
