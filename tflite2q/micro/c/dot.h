/* The sum of n products. */
Q_INLINE int32_t q_dot(const int8_t *x, const int8_t *w, int32_t n) {
  int32_t sum = 0;
#if defined(Q_MVE)
  for (; n > 0; n -= 16, x += 16, w += 16) {
    const mve_pred16_t p = vctp8q((uint32_t)n);
    sum = vmladavaq_p_s8(sum, vldrbq_z_s8(x, p), vldrbq_z_s8(w, p), p);
  }
#else
#if defined(Q_DSP)
  for (; n >= 4; n -= 4, x += 4, w += 4) {
    const uint32_t a = q_word(x), b = q_word(w);
    sum = q_dual(q_odd(a), q_odd(b), q_dual(q_even(a), q_even(b), sum));
  }
#endif
  for (; n > 0; n--) sum += *x++ * *w++;
#endif
  return sum;
}
