/* Recurrent layers: gates, sums over time, and gemmlowp's functions of 16-bit fixed point. */

/* a b / 2^15, to nearest, saturated. */
Q_INLINE int32_t q_times15(int32_t a, int32_t b) {
  const int32_t product = (a * b + (1 << 14)) >> 15;
  return product > 32767 ? 32767 : product;
}
/* t / 2^n, ties away from zero. */
Q_INLINE int32_t q_divided(int32_t t, int32_t n) { return (t + (1 << (n - 1)) - (t < 0)) >> n; }

/* exp(t), Q0.15, for t <= 0 with `bits` integer bits: a polynomial around -1/8, and a factor for each bit beyond. */
Q_KERNEL int32_t q_exp15(int32_t t, int32_t bits) {
  static const int16_t factors[7] = {25520, 19875, 12055, 4435, 600, 11, 0}; /* exp(-1/4), exp(-1/2) ... exp(-16) */
  const int32_t fraction = 15 - bits, quarter = 1 << (fraction - 2), rest = (t & (quarter - 1)) - quarter;
  const int32_t z = rest * (1 << bits) + (1 << 12), z2 = q_times15(z, z), z4 = q_times15(z2, z2);
  const int32_t third = q_times15(q_divided(z4, 2) + q_times15(z2, z), 10923) + z2;
  int32_t y = q_clamp(28918 + q_times15(28918, z + q_divided(third, 1)), -32768, 32767);
  if (t == 0) return 32767;
  for (int32_t k = 0; k < 7 && bits > k - 2; k++)
    if (((rest - t) >> (fraction + k - 2)) & 1) y = q_times15(y, factors[k]);
  return bits > 5 && t < -(1 << (fraction + 5)) ? 0 : y;
}

/* 2 / (1 + a), Q2.13, for a in [0, 1), Q0.15: three Newton steps. */
Q_KERNEL int32_t q_newton15(int32_t a) {
  const int32_t half = (a + 32768) >> 1;
  int32_t x = 23130 + q_times15(half, -15420);
  for (int i = 0; i < 3; i++) x += q_clamp(q_times15(x, 8192 - q_times15(half, x)) * 4, -32768, 32767);
  return x;
}

/* 1 / (1 + exp(-x)) and tanh(x), Q0.15, for x with `bits` integer bits. */
Q_INLINE int32_t q_logistic15(int32_t x, int32_t bits) {
  const int32_t y = q_clamp(q_newton15(q_exp15(x < 0 ? x : -x, bits)) * 2, -32768, 32767);
  return x > 0 ? y : x < 0 ? 32767 - y : 1 << 14;
}
Q_INLINE int32_t q_tanh15(int32_t x, int32_t bits) {
  const int32_t y = q_clamp((q_newton15(q_exp15(x < 0 ? x : -x, bits + 1)) - 8192) * 4, -32768, 32767);
  return x > 0 ? y : x < 0 ? -y : 0;
}

/* A gate of an LSTM: weights of input and hidden state, [units][...], biases with the zero points in them, and what
   takes the sums to steps of 2^-12. */
typedef struct {
  const int8_t *w[2];
  const int32_t *bias[2];
  int32_t m[2];
  int8_t shift[2];
} q_gate;

Q_KERNEL int32_t q_gated(const q_gate *g, int32_t unit, const int8_t *x, int32_t depth, const int8_t *h, int32_t units) {
  const int32_t a = g->bias[0][unit] + q_dot(x, g->w[0] + unit * depth, depth);
  const int32_t b = g->bias[1][unit] + q_dot(h, g->w[1] + unit * units, units);
  const int64_t sum = (int64_t)q_clamp(q_exact(a, g->m[0], g->shift[0]), -32768, 32767) + q_exact(b, g->m[1], g->shift[1]);
  return sum < -32768 ? -32768 : sum > 32767 ? 32767 : (int32_t)sum;
}

typedef struct {
  const int8_t *features;      /* [filters][depth] */
  const int32_t *sums, *bias;  /* of filters, with the zero point in them; of units, or none */
  const int16_t *times;        /* [filters][memory] */
  q_rescale newest, result;
  int32_t batch, depth, units, rank, memory;
} q_svdf_layer;

/* state: [batch][filters][memory], the oldest first.  Sums over time wrap, as the reference's do. */
Q_KERNEL void q_svdf(const q_svdf_layer *l, const int8_t *x, int16_t *state, int8_t *y) {
  for (int32_t n = 0; n < l->batch; n++, x += l->depth) {
    for (int32_t u = 0, f = 0; u < l->units; u++) {
      uint32_t sum = l->bias ? (uint32_t)l->bias[u] : 0;
      for (int32_t r = 0; r < l->rank; r++, f++, state += l->memory) {
        const int16_t *t = l->times + f * l->memory;
        const int32_t newest = l->sums[f] + q_dot(x, l->features + f * l->depth, l->depth);
        for (int32_t k = 0; k + 1 < l->memory; k++) {
          state[k] = state[k + 1];
          sum += (uint32_t)(state[k] * t[k]);
        }
        state[l->memory - 1] = (int16_t)q_code(newest, &l->newest, 0, Q_EXACT);
        sum += (uint32_t)(state[l->memory - 1] * t[l->memory - 1]);
      }
      *y++ = (int8_t)q_code((int32_t)sum, &l->result, 0, Q_EXACT);
    }
  }
}
