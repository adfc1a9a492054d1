/* What all kernels share: unaligned words, products of halves, and how sums become codes. */

#if defined(__GNUC__)
#define Q_INLINE static inline __attribute__((always_inline, unused))
#define Q_KERNEL static __attribute__((noinline, unused))
#define Q_ALIGNED __attribute__((aligned(4)))
#define q_copy(to, from, n) __builtin_memcpy((to), (from), (n))
#define q_fill(to, value, n) __builtin_memset((to), (value), (n))
#define Q_ROUNDED(x) __asm__("" : "+m"(x)) /* a product that must not become part of a multiply-add */
#define Q_ORDER __asm__ volatile("" ::: "memory") /* loads stay on their side: registers are few */
#else
#include <string.h>
#define Q_INLINE static inline
#define Q_KERNEL static
#define Q_ALIGNED _Alignas(4)
#define q_copy(to, from, n) memcpy((to), (from), (n))
#define q_fill(to, value, n) memset((to), (value), (n))
#define Q_ROUNDED(x) ((void)(x))
#define Q_ORDER ((void)0)
#endif
#if defined(__ARM_FEATURE_DSP) && defined(__GNUC__) && !defined(__aarch64__)
#define Q_DSP 1
#endif
#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#define Q_MVE 1
#include <arm_mve.h>
#endif

/* kinds of rescaling: fixed point to all codes of int8, fixed point, fixed point with shifts in a table, products of
   integers with multipliers of 31 and of 53 bits, fixed point in 64 bits, a product in float */
enum { Q_FULL, Q_FIXED, Q_APART, Q_LINEAR, Q_DOUBLE, Q_EXACT, Q_FLOAT };

/* Whether a channel's bias and shift share a word: 256 bias + shift. */
#define Q_TIED(KIND) ((KIND) == Q_FULL || (KIND) == Q_FIXED)

/* Rescaling of sums, by channels: multiplier, shift, bias; see the equations in the manual of tflite2q. */
typedef struct {
  const int32_t *m;
  const int8_t *n;
  int32_t zero, low, high;
  int32_t positive, negative;
  const int32_t *lower;
  int32_t each; /* -1; or 0: all channels have the factor of the first */
} q_rescale;

Q_INLINE int32_t q_clamp(int32_t v, int32_t low, int32_t high) { return v < low ? low : v > high ? high : v; }

/* (2 a m + 2^31) >> 32, |a| < 2^30 */
Q_INLINE int32_t q_high(int32_t a, int32_t m) {
#if defined(Q_DSP)
  int32_t r;
  __asm__("smmulr %0, %1, %2" : "=r"(r) : "r"((int32_t)((uint32_t)a << 1)), "r"(m));
  return r;
#else
  return (int32_t)(((int64_t)a * m + (1 << 30)) >> 31);
#endif
}

Q_INLINE int32_t q_exact(int32_t a, int32_t m, int32_t shift) {
  int32_t raised = shift > 0 ? (int32_t)((uint32_t)a << shift) : a;
  int64_t h = ((int64_t)raised * m + (1 << 30)) >> 31;
  if (shift >= 0) return (int32_t)h;
  return (int32_t)((h + ((int64_t)1 << (-shift - 1)) - (h < 0)) >> -shift);
}

Q_INLINE int32_t q_between(int64_t v, const q_rescale *r) {
  return v < r->low ? r->low : v > r->high ? r->high : (int32_t)v;
}

/* A product in float, to nearest, ties to even. */
Q_INLINE int32_t q_float(int64_t a, const q_rescale *r, int32_t c) {
  float v, factor;
  q_copy(&factor, &r->m[c & r->each], 4);
  v = (float)a * factor;
  Q_ROUNDED(v);
  v = v < (float)(r->low - r->zero) ? (float)(r->low - r->zero) : v;
  v = v > (float)(r->high - r->zero) ? (float)(r->high - r->zero) : v;
  v = v + 12582912.0f; /* 1.5 * 2^23: what is left of its fraction is nothing */
  Q_ROUNDED(v);
  return (int32_t)(v - 12582912.0f) + r->zero;
}

/* A product of integers; |a m| < 2^62.  With two multipliers, sums beyond 2^35 give the first or last code anyway. */
Q_INLINE int32_t q_code64(int64_t a, const q_rescale *r, int32_t c, int kind) {
  if (kind == Q_FLOAT) return q_float(a, r, c);
  c &= r->each;
  int64_t more = ((int64_t)1 << (r->n[c] - 1)) + (a < 0 ? r->negative : r->positive);
  if (kind == Q_DOUBLE) {
    const int64_t most = (int64_t)1 << 35;
    a = a < -most ? -most : a > most ? most : a;
    more += (a * r->lower[c]) >> 26;
  }
  return q_between(((a * r->m[c] + more) >> r->n[c]) + r->zero, r);
}

/* The end of the fixed-point form: (h + zero) >> 1, saturated to int8. */
Q_INLINE int32_t q_halved8(int32_t h) {
#if defined(Q_DSP)
  int32_t r;
  __asm__("ssat %0, #8, %1, asr #1" : "=r"(r) : "r"(h));
  return r;
#else
  return q_clamp(h >> 1, -128, 127);
#endif
}

/* h >> n, of which the last byte counts. */
Q_INLINE int32_t q_shifted(int32_t h, int32_t n) {
#if defined(Q_DSP)
  int32_t r;
  __asm__("asr %0, %1, %2" : "=r"(r) : "r"(h), "r"(n));
  return r;
#else
  return h >> (n & 31);
#endif
}

/* Fixed point with a channel's multiplier, and its shift in the last byte of n. */
Q_INLINE int32_t q_fixed(int32_t a, int32_t m, int32_t n, const q_rescale *r, int kind) {
  int32_t h = q_high(a, m);
  h += h >> 31;
  h = q_shifted(h, n) + r->zero;
  return kind == Q_FULL ? q_halved8(h) : q_clamp(h >> 1, r->low, r->high);
}

Q_INLINE int32_t q_code(int32_t a, const q_rescale *r, int32_t c, int kind) {
  const int32_t at = c & r->each;
  if (kind == Q_APART) return q_fixed(a, r->m[at], r->n[at], r, kind);
  if (kind == Q_EXACT) return q_between((int64_t)q_exact(a, r->m[at], r->n[at]) + r->zero, r);
  return q_code64(a, r, c, kind);
}

/* A sum's first value and, at its end, its code; `word`: the channel's bias, and in tied kinds its shift. */
Q_INLINE int32_t q_first(int32_t word, int kind) { return Q_TIED(kind) ? word >> 8 : word; }
Q_INLINE int32_t q_last(int32_t a, int32_t word, const q_rescale *r, int32_t c, int kind) {
  return Q_TIED(kind) ? q_fixed(a, r->m[c & r->each], word, r, kind) : q_code(a, r, c, kind);
}

Q_INLINE uint32_t q_word(const void *p) {
  uint32_t w;
  q_copy(&w, p, 4);
  return w;
}

/* Codes of kernels for `bytes` are uint8, of others int8. */
Q_INLINE int32_t q_element(int8_t v, int bytes) { return bytes ? (uint8_t)v : v; }

/* Bytes 0 and 2 (sxtb16) and 1 and 3 (sxtb16 ... ror 8) of a word as halves; two products of halves and a sum. */
#if defined(Q_DSP)
Q_INLINE uint32_t q_even(uint32_t w) {
  uint32_t r;
  __asm__("sxtb16 %0, %1" : "=r"(r) : "r"(w));
  return r;
}
Q_INLINE uint32_t q_odd(uint32_t w) {
  uint32_t r;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(w));
  return r;
}
Q_INLINE int32_t q_dual(uint32_t a, uint32_t b, int32_t sum) {
  int32_t r;
  __asm__("smlad %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(sum));
  return r;
}
#else
Q_INLINE uint32_t q_even(uint32_t w) {
  return (uint16_t)(int16_t)(int8_t)w | ((uint32_t)(uint16_t)(int16_t)(int8_t)(w >> 16) << 16);
}
Q_INLINE uint32_t q_odd(uint32_t w) { return q_even(w >> 8); }
Q_INLINE int32_t q_dual(uint32_t a, uint32_t b, int32_t sum) {
  return sum + (int16_t)a * (int16_t)b + (int16_t)(a >> 16) * (int16_t)(b >> 16);
}
#endif
Q_INLINE uint32_t q_halves_even(uint32_t w, int bytes) { return bytes ? w & 0x00FF00FFu : q_even(w); }
Q_INLINE uint32_t q_halves_odd(uint32_t w, int bytes) { return bytes ? (w >> 8) & 0x00FF00FFu : q_odd(w); }

/* The square root, to nearest, ties to even; of processors without floating point, too. */
Q_INLINE float q_sqrt(float x) {
  uint32_t bits, root = 0;
  q_copy(&bits, &x, 4);
  int32_t exponent = (int32_t)(bits >> 23 & 255) - 127;
  uint64_t rest = bits & 0x7FFFFF;
  if (bits << 1 == 0 || bits == 0x7F800000u || bits << 1 > 0xFF000000u) return x; /* zeros, infinity, NaN */
  if (bits >> 31) bits = 0x7FC00000u;
  else {
    if (exponent > -127) rest |= 0x800000;
    else for (exponent = -126; !(rest >> 23); exponent--) rest <<= 1;
    rest <<= exponent & 1 ? 26 : 25; /* the root has 25 bits: one more than what stays */
    for (uint32_t bit = 1u << 24; bit; bit >>= 1)
      if ((uint64_t)(root | bit) * (root | bit) <= rest) root |= bit;
    bits = ((root + 1) >> 1) + ((uint32_t)((exponent >> 1) + 126) << 23); /* no root lies half way */
  }
  q_copy(&x, &bits, 4);
  return x;
}
