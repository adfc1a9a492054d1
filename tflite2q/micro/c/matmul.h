/* Products of two computed matrices: a column of b at a time lies in a row, and a, where its rows do not. */

typedef struct {
  q_rescale r;
  int32_t rows, depth, columns;
  int32_t row_a, step_a, step_b, column_b; /* how many elements neighbours of a row or column lie apart */
  int32_t zero_a, zero_b;
} q_matrices;

Q_INLINE int64_t q_dot16(const int16_t *x, const int16_t *w, int32_t n) {
  int64_t sum = 0;
  for (int32_t i = 0; i < n; i++) sum += x[i] * w[i];
  return sum;
}

/* scratch: sums of a's rows, a column of b, then the rows of a, if they lie in columns. */
#define Q_MATMUL(NAME, TYPE, FACTOR, SUM, DOT, CODE, KIND)                                                     \
  Q_KERNEL void NAME(const q_matrices *l, const TYPE *a, const FACTOR *b, TYPE *y, int8_t *scratch) {          \
    int32_t *const sums = (int32_t *)(void *)scratch;                                                          \
    TYPE *const column = (TYPE *)(void *)(sums + l->rows), *const turned = column + l->depth;                  \
    for (int32_t i = 0; i < l->rows; i++) {                                                                    \
      sums[i] = 0;                                                                                             \
      for (int32_t k = 0; k < l->depth; k++) {                                                                 \
        const TYPE v = a[i * l->row_a + k * l->step_a];                                                        \
        if (l->step_a != 1) turned[i * l->depth + k] = v;                                                      \
        if (l->zero_b) sums[i] -= l->zero_b * v;                                                               \
      }                                                                                                        \
    }                                                                                                          \
    for (int32_t j = 0; j < l->columns; j++) {                                                                 \
      int32_t base = l->depth * l->zero_a * l->zero_b;                                                         \
      for (int32_t k = 0; k < l->depth; k++) {                                                                 \
        column[k] = b[k * l->step_b + j * l->column_b];                                                        \
        base -= l->zero_a * column[k];                                                                         \
      }                                                                                                        \
      for (int32_t i = 0; i < l->rows; i++) {                                                                  \
        const TYPE *const row = l->step_a != 1 ? turned + i * l->depth : a + i * l->row_a;                     \
        const SUM sum = (SUM)(base + sums[i]) + DOT(row, column, l->depth);                                    \
        y[i * l->columns + j] = (TYPE)CODE(sum, &l->r, j, KIND);                                               \
      }                                                                                                        \
    }                                                                                                          \
  }
