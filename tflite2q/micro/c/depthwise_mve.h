/* Depthwise convolutions by sixteen channels at once (Helium).  The products of two taps are added in 16 bits, which
   weights from -127 to 127 never leave.  Tables of multipliers, shifts and biases have room for sixteen channels. */

#if defined(Q_MVE)
Q_INLINE int32x4_t q_quarter(int32x4_t a, int32x4_t m, int32x4_t n, const q_rescale *r) {
  int32x4_t h = vqrdmulhq_s32(a, m);
  h = vaddq_s32(h, vshrq_n_s32(h, 31));
  h = vshrq_n_s32(vaddq_n_s32(vshlq_s32(h, n), r->zero), 1);
  return vmaxq_s32(vminq_s32(h, vdupq_n_s32(r->high)), vdupq_n_s32(r->low));
}
#endif

/* The taps of one pixel, `row` their places. */
Q_INLINE void q_taps(const q_depthwise *l, const int8_t *const *row, int8_t *y, int kind) {
  const int32_t taps = l->kh * l->kw, columns = l->out_c;
#if defined(Q_MVE)
  if (kind == Q_FULL || kind == Q_FIXED) {
    for (int32_t c = 0; c < columns; c += 16) {
      const mve_pred16_t p = vctp8q((uint32_t)(columns - c));
      const int8_t *w = (const int8_t *)l->w + c;
      int32x4x4_t s = vld4q_s32(l->bias + c);
      int32_t t = 0;
      for (; t + 1 < taps; t += 2, w += 2 * columns) {
        const int8x16_t x0 = vldrbq_z_s8(row[t] + c, p), w0 = vldrbq_z_s8(w, p);
        const int8x16_t x1 = vldrbq_z_s8(row[t + 1] + c, p), w1 = vldrbq_z_s8(w + columns, p);
        const int16x8_t even = vaddq_s16(vmullbq_int_s8(x0, w0), vmullbq_int_s8(x1, w1));
        const int16x8_t odd = vaddq_s16(vmulltq_int_s8(x0, w0), vmulltq_int_s8(x1, w1));
        s.val[0] = vaddq_s32(s.val[0], vmovlbq_s16(even));
        s.val[1] = vaddq_s32(s.val[1], vmovlbq_s16(odd));
        s.val[2] = vaddq_s32(s.val[2], vmovltq_s16(even));
        s.val[3] = vaddq_s32(s.val[3], vmovltq_s16(odd));
      }
      if (t < taps) {
        const int8x16_t x0 = vldrbq_z_s8(row[t] + c, p), w0 = vldrbq_z_s8(w, p);
        const int16x8_t even = vmullbq_int_s8(x0, w0), odd = vmulltq_int_s8(x0, w0);
        s.val[0] = vaddq_s32(s.val[0], vmovlbq_s16(even));
        s.val[1] = vaddq_s32(s.val[1], vmovlbq_s16(odd));
        s.val[2] = vaddq_s32(s.val[2], vmovltq_s16(even));
        s.val[3] = vaddq_s32(s.val[3], vmovltq_s16(odd));
      }
      const int32x4x4_t m = vld4q_s32(l->r.m + c);
      const int8x16_t n = vnegq_s8(vldrbq_s8(l->r.n + c));
      const int16x8_t ne = vmovlbq_s8(n), no = vmovltq_s8(n);
      s.val[0] = q_quarter(s.val[0], m.val[0], vmovlbq_s16(ne), &l->r);
      s.val[1] = q_quarter(s.val[1], m.val[1], vmovlbq_s16(no), &l->r);
      s.val[2] = q_quarter(s.val[2], m.val[2], vmovltq_s16(ne), &l->r);
      s.val[3] = q_quarter(s.val[3], m.val[3], vmovltq_s16(no), &l->r);
      const int16x8_t even = vmovntq_s32(vmovnbq_s32(vdupq_n_s16(0), s.val[0]), s.val[2]);
      const int16x8_t odd = vmovntq_s32(vmovnbq_s32(vdupq_n_s16(0), s.val[1]), s.val[3]);
      vstrbq_p_s8(y + c, vmovntq_s16(vmovnbq_s16(vdupq_n_s8(0), even), odd), p);
    }
    return;
  }
#endif
  for (int32_t c = 0; c < columns; c++) {
    int32_t a = l->bias[c];
    for (int32_t t = 0; t < taps; t++) a += row[t][c] * ((const int8_t *)l->w)[t * columns + c];
    y[c] = (int8_t)q_code(a, &l->r, c, kind);
  }
}

/* scratch: places of the taps, then a pixel of zero points; the input's zero point is in the biases. */
Q_INLINE void q_depthwise_lanes(const q_depthwise *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  const int8_t **const row = (const int8_t **)(void *)scratch;
  int8_t *const outside = scratch + l->kh * l->kw * (int32_t)sizeof(int8_t *);
  q_fill(outside, l->zero, (size_t)l->in_c);
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c)
    for (int32_t oy = 0; oy < l->out_h; oy++)
      for (int32_t ox = 0; ox < l->out_w; ox++, y += l->out_c) {
        int32_t t = 0;
        for (int32_t i = 0, r = oy * l->sh - l->top; i < l->kh; i++, r += l->dh)
          for (int32_t j = 0, s = ox * l->sw - l->left; j < l->kw; j++, s += l->dw, t++)
            row[t] = r < 0 || r >= l->in_h || s < 0 || s >= l->in_w ? outside : x + (r * l->in_w + s) * l->in_c;
        q_taps(l, row, y, kind);
      }
}
