// The vector loops of a convolution of images in planes, compiled once per instruction set; planar_conv.cpp divides
// them among threads.
#pragma once
#include "cagc/planar_conv.h"
#include "kernels.h"

namespace cagc {

// A run is a number of neighbouring tiles of one row of tiles; runs are counted along rows, down an image, then through
// the batch.
struct PlanarJob {
  PlanarCall call;
  int64_t in, out, in_padded, out_padded, out_h, out_w;
  int64_t up;          // 1, or 2: a transposed convolution of stride 2
  int64_t rows, side;  // of tiles in an image
  int64_t parts;       // runs in a row of tiles
};

struct Run { int64_t n, row, first, count; };

inline Run run_of(const PlanarJob &job, int64_t i) {
  const int64_t part = i % job.parts, row = i / job.parts;
  // Whole vectors of outputs where a run ends inside of the image.
  const auto begin = [&](int64_t p) { return p == job.parts ? job.side : job.side * p / job.parts / 4 * 4; };
  return {row / job.rows, row % job.rows, begin(part), begin(part + 1) - begin(part)};
}

// Places per tile of index `a` of an axis: an index of an up-sampling convolution stands for four odd places.
constexpr int64_t planar_places(int64_t up, int64_t a) { return up == 2 && a == 5 ? 4 : 1; }

// Rows per tile of v and m: of one of the 36 points, and of those before it.
struct PlanarPoint { int64_t rows, before; };

constexpr PlanarPoint planar_point(int64_t up, int64_t point) {
  const int64_t a = point / 6, b = point % 6, places = planar_places(up, a);
  return {places * planar_places(up, b), up == 1 ? point : a * 9 + places * b};
}

constexpr int64_t planar_rows(int64_t up) { return up == 1 ? 36 : 81; }

struct PlanarKernels {
  // Tile `tile` of the block is the run's first; `group`: which vector of channels.
  void (*input)(const PlanarJob &, const Block &, const Run &, int64_t tile, int64_t group, float *scratch);
  void (*output)(const PlanarJob &, const Block &, const Run &, int64_t tile, int64_t group, float *scratch);
  // Panels [begin, end) of a product as Kernels::gemm, summed in parts of the channels.
  void (*multiply)(const float *a, int64_t lda, int64_t rows, int64_t k, const float *b, int64_t columns, int64_t begin,
                   int64_t end, float *out, int64_t ldo);
};

// Floats of scratch memory for runs of `tiles` tiles.
inline int64_t planar_scratch(int64_t up, int64_t tiles, int64_t lanes) {
  return up == 1 ? 6 * (4 * tiles + 2 + lanes) * lanes : 8 * (8 * tiles + 2 + lanes) * lanes;
}

}  // namespace cagc
