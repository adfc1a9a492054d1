/* Softmax of 16-bit codes: exp on [-10, 0] and 1 / (1 + x) on [0, 1] by linear pieces. */

Q_KERNEL void q_softmax16(const int16_t *x, int16_t *y, int32_t rows, int32_t n, int32_t m, int32_t shift) {
  for (int32_t r = 0; r < rows; r++, x += n, y += n) {
    int32_t top = x[0];
    uint32_t sum = 0;
    for (int32_t i = 1; i < n; i++) if (x[i] > top) top = x[i];
    for (int32_t i = 0; i < n; i++) {
      y[i] = (int16_t)q_piece(q_exp16, q_clamp(q_exact(x[i] - top, m, shift), -65535, 0) + 32767);
      sum += (uint32_t)y[i];
    }
    int32_t zeros = 0;
    while (sum && !((sum << zeros) >> 31)) zeros++;
    const int32_t fraction = (int32_t)((((uint64_t)sum << (zeros ? zeros - 1 : 0)) + (1 << 13)) >> 14);
    const int32_t inverse = q_piece(q_reciprocal16, q_clamp(fraction - (3 << 15), -32768, 32767));
    const int32_t right = 31 - zeros;
    for (int32_t i = 0; i < n; i++) {
      const int64_t code = ((int64_t)y[i] * inverse + ((int64_t)1 << (right - 1))) >> right;
      y[i] = (int16_t)(code < 0 ? 0 : code > 32767 ? 32767 : code);
    }
  }
}
