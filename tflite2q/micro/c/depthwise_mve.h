/* Depthwise convolutions by eight channels at once (Helium).  The products of two taps are added in 16 bits, which
   weights from -127 to 127 never leave.  Tables of multipliers and biases have room for whole eights; shifts are to the left,
   as vectors take them: below 0; vectors shift by the last byte of each word. */

#if defined(Q_MVE)
Q_INLINE int32x4_t q_quarter(int32x4_t a, int32x4_t m, int32x4_t n, int32_t zero) {
  int32x4_t h = vqrdmulhq_s32(a, m);
  h = vaddq_s32(h, vshrq_n_s32(h, 31));
  return vhaddq_n_s32(vshlq_s32(h, n), zero);
}

/* Eight channels, or those that `p` has: even ones and odd ones apart until the codes. */
Q_INLINE void q_eight(const q_depthwise *l, const int8_t *w, const q_rescale *r, const int8_t *const *row, int32_t c, int32_t taps,
                      int8_t *y, mve_pred16_t p) {
  const int32_t columns = l->out_c;
  w += c;
  const int32x4x2_t bias = vld2q_s32(l->bias + c);
  int32x4_t even = vshrq_n_s32(bias.val[0], 8), odd = vshrq_n_s32(bias.val[1], 8);
  for (; taps >= 2; taps -= 2, row += 2) {
    const int8_t *const x0 = row[0] + c, *const x1 = row[1] + c;
    int16x8_t s = vmulq_s16(vldrbq_z_s16(x0, p), vldrbq_z_s16(w, p));
    w += columns;
    s = vaddq_s16(s, vmulq_s16(vldrbq_z_s16(x1, p), vldrbq_z_s16(w, p)));
    w += columns;
    even = vaddq_s32(even, vmovlbq_s16(s));
    odd = vaddq_s32(odd, vmovltq_s16(s));
  }
  if (taps) {
    const int16x8_t s = vmulq_s16(vldrbq_z_s16(row[0] + c, p), vldrbq_z_s16(w, p));
    even = vaddq_s32(even, vmovlbq_s16(s));
    odd = vaddq_s32(odd, vmovltq_s16(s));
  }
  const int32x4x2_t m = vld2q_s32(r->m + c);
  even = q_quarter(even, m.val[0], bias.val[0], r->zero);
  odd = q_quarter(odd, m.val[1], bias.val[1], r->zero);
  const int16x8_t codes = vqmovntq_s32(vqmovnbq_s32(vdupq_n_s16(0), even), odd);
  vstrbq_p_s16(y + c, vmaxq_s16(vminq_s16(codes, vdupq_n_s16((int16_t)r->high)), vdupq_n_s16((int16_t)r->low)), p);
}

Q_INLINE void q_all_eight(const q_depthwise *l, const int8_t *w, const q_rescale *r, const int8_t *const *row, int32_t c, int32_t taps,
                          int8_t *y) {
  const int32_t columns = l->out_c;
  w += c;
  const int32x4x2_t bias = vld2q_s32(l->bias + c);
  int32x4_t even = vshrq_n_s32(bias.val[0], 8), odd = vshrq_n_s32(bias.val[1], 8);
  for (; taps >= 2; taps -= 2, row += 2) {
    const int8_t *const x0 = row[0] + c, *const x1 = row[1] + c;
    int16x8_t s = vmulq_s16(vldrbq_s16(x0), vldrbq_s16(w));
    w += columns;
    s = vaddq_s16(s, vmulq_s16(vldrbq_s16(x1), vldrbq_s16(w)));
    w += columns;
    even = vaddq_s32(even, vmovlbq_s16(s));
    odd = vaddq_s32(odd, vmovltq_s16(s));
  }
  if (taps) {
    const int16x8_t s = vmulq_s16(vldrbq_s16(row[0] + c), vldrbq_s16(w));
    even = vaddq_s32(even, vmovlbq_s16(s));
    odd = vaddq_s32(odd, vmovltq_s16(s));
  }
  const int32x4x2_t m = vld2q_s32(r->m + c);
  even = q_quarter(even, m.val[0], bias.val[0], r->zero);
  odd = q_quarter(odd, m.val[1], bias.val[1], r->zero);
  const int16x8_t codes = vqmovntq_s32(vqmovnbq_s32(vdupq_n_s16(0), even), odd);
  vstrbq_s16(y + c, vmaxq_s16(vminq_s16(codes, vdupq_n_s16((int16_t)r->high)), vdupq_n_s16((int16_t)r->low)));
}
#endif

/* The taps of one pixel, `row` their places. */
Q_INLINE void q_taps(const q_depthwise *l, const int8_t *w, const q_rescale *r, const int8_t *const *row, int32_t taps, int8_t *y,
                     int kind) {
  const int32_t columns = l->out_c;
#if defined(Q_MVE)
  if (Q_TIED(kind)) {
    int32_t c = 0;
    for (; c + 8 <= columns; c += 8) q_all_eight(l, w, r, row, c, taps, y);
    if (c < columns) q_eight(l, w, r, row, c, taps, y, vctp16q((uint32_t)(columns - c)));
    return;
  }
#endif
  for (int32_t c = 0; c < columns; c++) {
    int32_t a = q_first(l->bias[c], kind);
    for (int32_t t = 0; t < taps; t++) a += row[t][c] * w[t * columns + c];
    y[c] = (int8_t)q_last(a, Q_TIED(kind) ? -l->bias[c] : 0, r, c, kind);
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
  const int8_t *w = (const int8_t *)l->w;
  if (l->narrow) {
    q_unpack((const uint8_t *)l->w, outside + in_c, kh * kw * in_c);
    w = outside + in_c;
  }
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
        q_taps(l, w, &rescale, row, kh * kw, y, kind);
      }
    }
}
