// The matrix product out[rows, columns] = a[rows, k] * b[k, columns], with b packed in panels of at most kPanel
// vectors: [panel][k][lanes].
#pragma once
#include "../isa/simd.h"

namespace cagc {
namespace {

// Vectors in a panel. Of 32 registers, four rows of five vectors use 25 and reach 109-116 GFLOP/s on a Zen 4 core whose
// measured peak is 116 (40 to 160 columns). Splitting 40 columns into two vectors of 16 and one of 8 reaches 98-106
// only, because its loads cross cache lines.
constexpr int kPanel = kRegisters >= 32 ? 5 : kRegisters >= 16 ? 3 : 2;
// Rows of a register tile.
constexpr int rows_of(int vectors) {
  const int rows = (kRegisters - 1 - vectors) / vectors;
  return rows > 12 ? 12 : vectors == 5 ? 4 : rows;
}

struct Panels {
  int64_t lanes, vectors, count;

  explicit Panels(int64_t columns, int64_t most = kPanel)
      : lanes(columns % kWide == 0 ? kWide : 8), vectors(columns / lanes), count((vectors + most - 1) / most) {}
  // First vector of a panel; the sizes of panels differ by at most one vector.
  int64_t first(int64_t panel) const { return vectors * panel / count; }
};

// One register tile: R rows of a times a panel of V vectors.
template <int W, int V, int R>
__attribute__((noinline))
void product(const float *a, int64_t lda, int64_t k, const float *b, float *out, int64_t ldo) {
  vec<W> sum[R][V];
  CAGC_UNROLL
  for (int r = 0; r < R; r++)
    CAGC_UNROLL
    for (int v = 0; v < V; v++) sum[r][v] = vec<W>{};
  for (int64_t i = 0; i < k; i++, b += V * W) {
    vec<W> row[V];
    CAGC_UNROLL
    for (int v = 0; v < V; v++) row[v] = load<W>(b + v * W);
    CAGC_UNROLL
    for (int r = 0; r < R; r++) {
      const vec<W> s = broadcast<W>(a[r * lda + i]);
      CAGC_UNROLL
      for (int v = 0; v < V; v++) sum[r][v] += s * row[v];
    }
  }
  CAGC_UNROLL
  for (int r = 0; r < R; r++)
    CAGC_UNROLL
    for (int v = 0; v < V; v++) store<W>(out + r * ldo + v * W, sum[r][v]);
}

// A register tile of at most R rows.
template <int W, int V, int R>
void rest(int64_t rows, const float *a, int64_t lda, int64_t k, const float *b, float *out, int64_t ldo) {
  if constexpr (R > 0) {
    if (rows == R) product<W, V, R>(a, lda, k, b, out, ldo);
    else rest<W, V, R - 1>(rows, a, lda, k, b, out, ldo);
  }
}

template <int W, int V>
void panel(int64_t rows, const float *a, int64_t lda, int64_t k, const float *b, float *out, int64_t ldo) {
  constexpr int R = rows_of(V);
  const int64_t blocks = (rows + R - 1) / R;
  for (int64_t i = 0; i < blocks; i++) {  // tiles of nearly equal height: 4 + 3 rows rather than 6 + 1
    const int64_t r = rows * i / blocks;
    rest<W, V, R>(rows * (i + 1) / blocks - r, a + r * lda, lda, k, b, out + r * ldo, ldo);
  }
}

// A panel of at most V vectors.
template <int W, int V>
void any_panel(int64_t vectors, int64_t rows, const float *a, int64_t lda, int64_t k, const float *b, float *out,
               int64_t ldo) {
  if constexpr (V > 0) {
    if (vectors == V) panel<W, V>(rows, a, lda, k, b, out, ldo);
    else any_panel<W, V - 1>(vectors, rows, a, lda, k, b, out, ldo);
  }
}

// Panels [begin, end) of the product.
void gemm(const float *a, int64_t lda, int64_t rows, int64_t k, const float *b, int64_t columns, int64_t begin,
          int64_t end, float *out, int64_t ldo) {
  const Panels panels(columns);
  for (int64_t p = begin; p < end; p++) {
    const int64_t first = panels.first(p), vectors = panels.first(p + 1) - first, column = first * panels.lanes;
    if (panels.lanes == 8) any_panel<8, kPanel>(vectors, rows, a, lda, k, b + column * k, out + column, ldo);
    else any_panel<kWide, kPanel>(vectors, rows, a, lda, k, b + column * k, out + column, ldo);
  }
}

int64_t panel_count(int64_t columns) { return Panels(columns).count; }

void pack(const float *b, int64_t k, int64_t columns, float *packed) {
  const Panels panels(columns);
  for (int64_t p = 0; p < panels.count; p++) {
    const int64_t begin = panels.first(p) * panels.lanes, end = panels.first(p + 1) * panels.lanes;
    for (int64_t i = 0; i < k; i++)
      for (int64_t c = begin; c < end; c++) *packed++ = b[i * columns + c];
  }
}

}  // namespace
}  // namespace cagc
