/* Convolutions and dense layers by sums of sixteen products at once (Helium): one pixel by four channels. */

#if defined(Q_MVE)
Q_INLINE int32x4_t q_codes(int32x4_t a, const q_rescale *r, int32_t c, mve_pred16_t p, int kind) {
  int32x4_t h = vqrdmulhq_s32(a, vldrwq_z_s32(r->m + c, p));
  h = vaddq_s32(h, vshrq_n_s32(h, 31));
  h = vshlq_s32(h, vnegq_s32(vldrbq_z_s32(r->n + c, p)));
  h = vshrq_n_s32(vaddq_n_s32(h, r->zero), 1);
  if (kind == Q_FULL) return vmaxq_s32(vminq_s32(h, vdupq_n_s32(127)), vdupq_n_s32(-128));
  return vmaxq_s32(vminq_s32(h, vdupq_n_s32(r->high)), vdupq_n_s32(r->low));
}
#endif

Q_INLINE void q_four(const q_conv *l, const int8_t *x, const int8_t *const *w, int32_t *sums) {
#if defined(Q_MVE)
  int32_t a = sums[0], b = sums[1], d = sums[2], e = sums[3], k = l->depth;
  const int8_t *w0 = w[0], *w1 = w[1], *w2 = w[2], *w3 = w[3];
  for (; k >= 16; k -= 16) {
    const int8x16_t v = vldrbq_s8(x);
    a = vmladavaq_s8(a, v, vldrbq_s8(w0));
    b = vmladavaq_s8(b, v, vldrbq_s8(w1));
    d = vmladavaq_s8(d, v, vldrbq_s8(w2));
    e = vmladavaq_s8(e, v, vldrbq_s8(w3));
    x += 16;
    w0 += 16;
    w1 += 16;
    w2 += 16;
    w3 += 16;
  }
  if (k > 0) {
    const mve_pred16_t p = vctp8q((uint32_t)k);
    const int8x16_t v = vldrbq_z_s8(x, p);
    a = vmladavaq_s8(a, v, vldrbq_z_s8(w0, p));
    b = vmladavaq_s8(b, v, vldrbq_z_s8(w1, p));
    d = vmladavaq_s8(d, v, vldrbq_z_s8(w2, p));
    e = vmladavaq_s8(e, v, vldrbq_z_s8(w3, p));
  }
  sums[0] = a, sums[1] = b, sums[2] = d, sums[3] = e;
#else
  for (int i = 0; i < 4; i++)
    for (int32_t k = 0; k < l->depth; k++) sums[i] += x[k] * w[i][k];
#endif
}

Q_INLINE void q_block(const q_conv *l, const int8_t *x, int8_t *y, int32_t first, int32_t last, int8_t *unpacked,
                      int kind) {
  for (int32_t c = first; c < last; c += 4) {
    const int8_t *w[4];
    int32_t sums[4];
    for (int i = 0; i < 4; i++) {
      const int32_t at = c + i < last ? c + i : last - 1;
      w[i] = q_row(l, at, unpacked + i * l->stride);
      sums[i] = l->bias[at];
    }
    q_four(l, x, w, sums);
#if defined(Q_MVE)
    if (kind == Q_FULL || kind == Q_FIXED) {
      const mve_pred16_t p = vctp32q((uint32_t)(last - c));
      int32x4_t v = vdupq_n_s32(sums[0]);
      v = vsetq_lane_s32(sums[1], v, 1);
      v = vsetq_lane_s32(sums[2], v, 2);
      v = vsetq_lane_s32(sums[3], v, 3);
      vstrbq_p_s32(y + c, q_codes(v, &l->r, c, p, kind), p);
      continue;
    }
#endif
    for (int i = 0; i < 4 && c + i < last; i++) y[c + i] = (int8_t)q_code(sums[i], &l->r, c + i, kind);
  }
}

/* scratch: a row of the image, then four rows of weights, if they are unpacked. */
Q_INLINE void q_convolve(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  const int32_t per = l->out_c / l->groups;
  const int direct = q_pointwise(l);
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c)
    for (int32_t oy = 0; oy < l->out_h; oy++)
      for (int32_t ox = 0; ox < l->out_w; ox++, y += l->out_c)
        for (int32_t g = 0; g < l->groups; g++) {
          const int8_t *row = x + (oy * l->in_w + ox) * l->in_c;
          if (!direct) {
            q_patch(l, x, oy, ox, g, scratch);
            row = scratch;
          }
          q_block(l, row, y, g * per, (g + 1) * per, scratch + (direct ? 0 : l->depth), kind);
        }
}
