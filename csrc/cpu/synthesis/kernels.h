// The vector loops of a styled convolution on ranges of tiles, compiled once per instruction set. The driver
// (synthesis.cpp) splits ranges among threads.
#pragma once
#include "cagc/synthesis.h"

namespace cagc {

// Floats from one row of activations to the next. Without the padding, rows of the usual widths are a multiple of 4 kB
// apart, so that all rows of a tile map to one set of the L1 cache.
__attribute__((always_inline)) inline int64_t pitch(int64_t size, int64_t channels) { return size * channels + 16; }

// For layers in strips: floats from one channel of a row to the next, and from one row to the next.
__attribute__((always_inline)) inline int64_t channel_pitch(int64_t size) { return size < 256 ? size : size + 16; }
__attribute__((always_inline)) inline int64_t strips_pitch(int64_t size, int64_t channels) {
  return channel_pitch(size) * channels + 16;
}

// For layers in strips: where the images of a row of tiles lie in a thread's scratch memory. What input() and output()
// need for a tile is before them.
__attribute__((always_inline)) inline int64_t image_rows_offset(const StyledConv &c) {
  const int64_t tile = 16 * c.out * c.strips, row = c.resolution + 2 * c.strips;
  return tile > row ? tile : row;
}

// The arguments of one layer in one call. t is the output of the transposed convolution of an up-sampling layer.
struct ConvJob {
  const StyledConv *conv;
  const float *x;           // [batch, h, w, in], modulated, rows padded to their pitch
  float *y;                 // [batch, r, r, out] likewise, modulated for the next layer; null in the last layer
  const float *demod;       // [batch, out_padded], the activation's gain included
  const float *next;        // [batch, out_padded], styles of the next layer
  const float *noise;       // [r, r] of sample n at + n * noise_sample, or null
  int64_t noise_sample;
  const float *rgb_weight;  // [batch, 3, out_padded], modulated, or null
  float *rgb;               // [batch, 3, r, r]; toRGB adds to it, or in strips to the up-sampled `below`
  const float *below;       // strips: [batch, 3, r / 2, r / 2], the image of the layers before, or null for zeros
  int64_t x_rows, y_rows;   // strips: rows in the ring buffers of x and y; row i is at i % x_rows
  float *t;                 // up: ring buffer with `ring` rows of the transposed convolution
  int64_t ring;
  int64_t t_row, t_rows;    // floats in a row of t, rows per sample
  float *edge;              // strips: the last column of the transposed convolution, [batch, t_rows, out]
  const float *fir;         // [4]
  float clamp;
  int64_t size;             // of x: h = w
  int64_t side, tiles;      // tiles in a row, tiles per sample
};

// Consecutive tiles whose transforms are in memory together. The tiles of Algorithm::direct3 are pixels; their number
// in a block, and in a range of output(), is a multiple of four.
struct Block {
  int64_t first, count;
  float *v, *m;  // transformed inputs and outputs
};

// A fully connected layer, its bias and, if `leaky`, a leaky ReLU of slope 0.2 without gain.
struct DenseJob {
  const Dense *layer;
  const float *a;  // [rows, k], rows lda floats apart
  int64_t lda, rows, k, columns;
  float *out;      // [rows, columns], rows ldo floats apart
  int64_t ldo;
  bool leaky;
};

constexpr int64_t kPointPad = 16;  // floats between points, so that their stores do not map to one set of the L1 cache
constexpr int64_t kStrip = 6144;   // floats of a row that are filtered at a time: 24 kB

struct Kernels {
  int64_t lanes;  // of the widest vectors
  int64_t (*panels)(int64_t columns);
  void (*pack)(const float *b, int64_t k, int64_t columns, float *packed);
  void (*gemm)(const float *a, int64_t lda, int64_t rows, int64_t k, const float *b, int64_t columns, int64_t begin,
               int64_t end, float *out, int64_t ldo);
  // Fully connected layers have panels of their own.
  int64_t (*dense_panels)(int64_t columns);
  void (*pack_dense)(Storage storage, const float *b, int64_t k, int64_t columns, void *packed, float *scale);
  void (*dense)(const DenseJob &, int64_t begin, int64_t end);
  void (*input)(const ConvJob &, const Block &, int64_t begin, int64_t end, float *scratch);
  void (*output)(const ConvJob &, const Block &, int64_t begin, int64_t end, float *scratch);
  // Rows [begin, end) of y, counted through the batch, from t.
  void (*filter)(const ConvJob &, int64_t begin, int64_t end, float *scratch);
  // Rows [begin, end) of a plane [2h, 2h]: the plane [h, h] up-sampled by two, or zeros where it is null.
  void (*skip)(const float *plane, int64_t h, const float *fir, int64_t begin, int64_t end, float *out, float *scratch);

  // For layers in strips. row_blocks, pack_strips and gemm_strips are panels, pack and gemm with weights and
  // activations exchanged. to_strips converts rows [begin, end) of x from NHWC. edge computes the last column of t for
  // one vector of rows of x from `begin` on.
  int64_t (*row_blocks)(int64_t rows);
  void (*pack_strips)(const float *b, int64_t k, int64_t rows, float *packed);
  void (*gemm_strips)(const float *b, int64_t count, int64_t k, const float *a, int64_t rows, int64_t begin,
                      int64_t end, float *out);
  void (*to_strips)(const ConvJob &, const float *from, int64_t begin, int64_t end, float *to);
  void (*edge)(const ConvJob &, int64_t n, int64_t begin, float *scratch);
};

}  // namespace cagc
