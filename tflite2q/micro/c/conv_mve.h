/* Convolutions and dense layers by sums of sixteen products at once (Helium): one pixel by four channels.

   Weights of four channels lie side by side, sixteen taps of each in turn, then what is left of each.  Tables have
   room for whole groups of four: biases with shifts, then multipliers.  Shifts are to the left, as vectors take them: below
   0; vectors shift by the last byte of each word. */

#if defined(Q_MVE)
Q_INLINE int32x4_t q_codes(int32x4_t a, int32x4_t m, int32x4_t n, int32_t zero, int32_t low, int32_t high) {
  int32x4_t h = vqrdmulhq_s32(a, m);
  h = vaddq_s32(h, vshrq_n_s32(h, 31));
  h = vhaddq_n_s32(vshlq_s32(h, n), zero);
  return vmaxq_s32(vminq_s32(h, vdupq_n_s32(high)), vdupq_n_s32(low));
}
#endif

#if defined(Q_MVE)
/* The same as q_four for uint8. */
Q_INLINE void q_four_bytes(const uint8_t *x, const uint8_t *w, int32_t depth, uint32_t *sums) {
  uint32_t a = sums[0], b = sums[1], d = sums[2], e = sums[3];
  const int32_t rest = depth & 15, step = (rest + 3) & ~3;
  for (int32_t k = depth >> 4; k > 0; k--, x += 16, w += 64) {
    const uint8x16_t v = vldrbq_u8(x);
    a = vmladavaq_u8(a, v, vldrbq_u8(w));
    b = vmladavaq_u8(b, v, vldrbq_u8(w + 16));
    d = vmladavaq_u8(d, v, vldrbq_u8(w + 32));
    e = vmladavaq_u8(e, v, vldrbq_u8(w + 48));
  }
  if (rest) {
    const mve_pred16_t p = vctp8q((uint32_t)rest);
    const uint8x16_t v = vldrbq_z_u8(x, p);
    a = vmladavaq_u8(a, v, vldrbq_z_u8(w, p));
    b = vmladavaq_u8(b, v, vldrbq_z_u8(w + step, p));
    d = vmladavaq_u8(d, v, vldrbq_z_u8(w + 2 * step, p));
    e = vmladavaq_u8(e, v, vldrbq_z_u8(w + 3 * step, p));
  }
  sums[0] = a, sums[1] = b, sums[2] = d, sums[3] = e;
}
#endif

/* Sums of four channels; what is read of `w` lies side by side. */
Q_INLINE void q_four(const int8_t *x, const int8_t *w, int32_t depth, int32_t *sums, int bytes) {
  const int32_t rest = depth & 15, step = (rest + 3) & ~3;
#if defined(Q_MVE)
  if (bytes) {
    q_four_bytes((const uint8_t *)x, (const uint8_t *)w, depth, (uint32_t *)sums);
    return;
  }
  int32_t a = sums[0], b = sums[1], d = sums[2], e = sums[3];
  for (int32_t k = depth >> 4; k > 0; k--) {
    const int8x16_t v = vldrbq_s8(x);
    a = vmladavaq_s8(a, v, vldrbq_s8(w));
    b = vmladavaq_s8(b, v, vldrbq_s8(w + 16));
    d = vmladavaq_s8(d, v, vldrbq_s8(w + 32));
    e = vmladavaq_s8(e, v, vldrbq_s8(w + 48));
    x += 16;
    w += 64;
  }
  if (rest) {
    const mve_pred16_t p = vctp8q((uint32_t)rest);
    const int8x16_t v = vldrbq_z_s8(x, p);
    a = vmladavaq_s8(a, v, vldrbq_z_s8(w, p));
    b = vmladavaq_s8(b, v, vldrbq_z_s8(w + step, p));
    d = vmladavaq_s8(d, v, vldrbq_z_s8(w + 2 * step, p));
    e = vmladavaq_s8(e, v, vldrbq_z_s8(w + 3 * step, p));
  }
  sums[0] = a, sums[1] = b, sums[2] = d, sums[3] = e;
#else
  for (int32_t k = 0; k < depth; k++) {
    const int32_t block = k >> 4, within = block < depth >> 4 ? 16 : step;
    for (int i = 0; i < 4; i++) sums[i] += q_element(x[k], bytes) * q_element(w[64 * block + i * within + (k & 15)], bytes);
  }
#endif
}

/* `count` pixels, `step` apart, by four channels at a time. */
Q_INLINE void q_block_mve(const q_conv *l, const int8_t *x, int32_t step, int8_t *y, int32_t count, int8_t *unpacked,
                          const int32_t *offsets, int kind, int narrow, int bytes) {
  const q_rescale r = l->r;
  const int32_t depth = l->depth, all = 4 * l->stride, columns = l->out_c;
  const int32_t *t = l->pairs;
  const int8_t *w = narrow ? unpacked : (const int8_t *)l->w;
  for (int32_t c = 0; c < columns; c += 4, t += Q_TIED(kind) ? 8 : 4) {
    const int32_t b0 = q_first(t[0], kind), b1 = q_first(t[1], kind), b2 = q_first(t[2], kind), b3 = q_first(t[3], kind);
    const int8_t *p = x;
    int8_t *to = y + c;
    if (narrow) q_unpack((const uint8_t *)l->w + c / 4 * (all / 2), unpacked, all);
#if defined(Q_MVE)
    if (Q_TIED(kind)) {
      const int32x4_t m = vldrwq_s32(t + 4), n = vldrwq_s32(t);
      const mve_pred16_t lanes = vctp32q((uint32_t)(columns - c));
      for (int32_t i = 0; i < count; i++, p += step, to += columns) {
        const int32_t s = bytes ? offsets[i] : 0;
        int32_t sums[4] = {b0 + s, b1 + s, b2 + s, b3 + s};
        q_four(p, w, depth, sums, bytes);
        int32x4_t v = vdupq_n_s32(0);
        v = vsetq_lane_s32(sums[0], v, 0);
        v = vsetq_lane_s32(sums[2], v, 2);
        v = vsetq_lane_s32(sums[1], v, 1);
        v = vsetq_lane_s32(sums[3], v, 3);
        vstrbq_p_s32(to, q_codes(v, m, n, r.zero, r.low, r.high), lanes);
      }
      if (!narrow) w += all;
      continue;
    }
#endif
    for (int32_t i = 0; i < count; i++, p += step, to += columns) {
      const int32_t s = bytes ? offsets[i] : 0;
      int32_t sums[4] = {b0 + s, b1 + s, b2 + s, b3 + s};
      q_four(p, w, depth, sums, bytes);
      for (int32_t k = 0; k < 4 && c + k < columns; k++) {
        to[k] = (int8_t)(Q_TIED(kind) ? q_fixed(sums[k], t[4 + k], -t[k], &r, kind) : q_code(sums[k], &r, c + k, kind));
      }
    }
    if (!narrow) w += all;
  }
}

/* scratch: Q_BAND rows of the image, then four rows of weights, if they are unpacked. */
#define Q_BAND 8
Q_INLINE void q_pixels(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind, int narrow, int bytes) {
  const int32_t pixels = l->out_h * l->out_w;
  const int direct = q_pointwise(l);
  int8_t *const unpacked = scratch + (direct ? 0 : Q_BAND * l->depth);
  for (int32_t n = 0; n < l->batch; n++, x += l->in_h * l->in_w * l->in_c) {
    int32_t oy = 0, ox = 0;
    for (int32_t p = 0; p < pixels; p += Q_BAND) {
      const int32_t count = pixels - p < Q_BAND ? pixels - p : Q_BAND;
      for (int32_t i = 0; !direct && i < count; i++) {
        q_patch(l, x, oy, ox, 0, scratch + i * l->depth);
        if (++ox == l->out_w) ox = 0, oy++;
      }
      const int8_t *const rows = direct ? x + p * l->in_c : scratch;
      int32_t offsets[Q_BAND];
      for (int32_t i = 0; bytes && i < count; i++) offsets[i] = q_offset(l, rows + i * l->depth, bytes);
      q_block_mve(l, rows, l->depth, y, count, unpacked, offsets, kind, narrow, bytes);
      y += count * l->out_c;
    }
  }
}

Q_INLINE void q_fours(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_pixels(l, x, y, scratch, kind, 0, 0);
}

Q_INLINE void q_fours_narrow(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_pixels(l, x, y, scratch, kind, 1, 0);
}

Q_INLINE void q_fours_bytes(const q_conv *l, const int8_t *x, int8_t *y, int8_t *scratch, int kind) {
  q_pixels(l, x, y, scratch, kind, 0, 1);
}
