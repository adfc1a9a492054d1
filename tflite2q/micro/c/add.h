/* Sums of int8 tensors of one shape, in fixed point: operands raised by 20 bits to a common scale. */

typedef struct {
  int32_t m, n; /* multiplier, and shift to the right that rounds ties away from zero */
} q_factor;

typedef struct {
  int32_t zero_a, zero_b;
  q_factor a, b, y;
  int32_t zero, low, high, size;
} q_sum;

Q_INLINE int32_t q_scaled(int32_t x, q_factor f) {
  const int32_t h = q_high(x, f.m);
  return f.n ? (h + (1 << (f.n - 1)) + (h >> 31)) >> f.n : h;
}

#if defined(Q_MVE)
Q_INLINE int32x4_t q_scaled4(int32x4_t x, q_factor f) {
  const int32x4_t h = vqrdmulhq_n_s32(x, f.m), n = vdupq_n_s32(-f.n);
  return vrshlq_s32(vaddq_s32(h, vshrq_n_s32(vandq_s32(h, n), 31)), n);
}
#endif

Q_KERNEL void q_add8(const q_sum *l, const int8_t *a, const int8_t *b, int8_t *y) {
  const q_sum s = *l;
#if defined(Q_MVE)
  for (int32_t left = s.size; left > 0; left -= 4, a += 4, b += 4, y += 4) {
    const mve_pred16_t p = vctp32q((uint32_t)left);
    int32x4_t u = vshlq_n_s32(vsubq_n_s32(vldrbq_z_s32(a, p), s.zero_a), 20);
    int32x4_t v = vshlq_n_s32(vsubq_n_s32(vldrbq_z_s32(b, p), s.zero_b), 20);
    u = vaddq_s32(q_scaled4(u, s.a), q_scaled4(v, s.b));
    u = vaddq_n_s32(q_scaled4(u, s.y), s.zero);
    vstrbq_p_s32(y, vmaxq_s32(vminq_s32(u, vdupq_n_s32(s.high)), vdupq_n_s32(s.low)), p);
  }
#else
  for (int32_t i = 0; i < s.size; i++) {
    const int32_t u = q_scaled((a[i] - s.zero_a) * (1 << 20), s.a), v = q_scaled((b[i] - s.zero_b) * (1 << 20), s.b);
    y[i] = (int8_t)q_clamp(q_scaled(u + v, s.y) + s.zero, s.low, s.high);
  }
#endif
}
