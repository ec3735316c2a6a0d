// The register tiles of sparse-channel convolution on the CPU.
#pragma once
#include "cagc/sparse_channel_conv2d.h"
#include "isa/simd.h"

namespace cagc {
namespace {

constexpr int64_t kMaxBlock = 12, kMaxTile = 32 * kMaxBlock;

template <class A> struct Tile {
  const A *x;  // plane of the first channel, at output pixel 0
  int64_t plane, channels;
  const int64_t *offsets;    // [taps] from an output pixel to the pixel that the tap reads
  const int64_t *positions;  // [taps] position of the first output's weight in a row of the panel
  int64_t taps;
  const A *panel;  // [channels, row]
  int64_t row;
  A *out;  // [block, 2 vectors]
};

// Distance of two outputs' weights in a row of the panel: 9 for 3 x 3 filters, which are copied whole; for other sizes
// the outputs of a tap are adjacent.
constexpr int64_t spread(int64_t k) { return k == 3 ? 9 : 1; }

// Keeps VECTORS * BLOCK sums in registers: 2 x 12 with 32 registers of 64 bytes, 2 x 6 with 16 of 16 or 32 bytes.
template <class A, int VECTORS, int SPREAD, int BLOCK> CAGC_NOINLINE void tile(const Tile<A> &t) {
  typedef A Vector __attribute__((vector_size(kBytes)));
  typedef A Unaligned __attribute__((vector_size(kBytes), aligned(sizeof(A)), may_alias));
  constexpr int lanes = kBytes / sizeof(A);
  Vector sum[BLOCK][VECTORS] = {};
  const A *row = t.panel, *plane = t.x;
  for (int64_t c = 0; c < t.channels; c++, plane += t.plane, row += t.row) {
    for (int64_t k = 0; k < t.taps; k++) {
      const A *x = plane + t.offsets[k], *w = row + t.positions[k];
      Vector v[VECTORS];
#pragma GCC unroll 2
      for (int i = 0; i < VECTORS; i++) {
        v[i] = *reinterpret_cast<const Unaligned *>(x + i * lanes);
        __builtin_prefetch(x + (VECTORS + i) * lanes);
      }
#pragma GCC unroll 12
      for (int o = 0; o < BLOCK; o++)
#pragma GCC unroll 2
        for (int i = 0; i < VECTORS; i++) sum[o][i] += w[o * SPREAD] * v[i];
    }
  }
#pragma GCC unroll 12
  for (int o = 0; o < BLOCK; o++)
#pragma GCC unroll 2
    for (int i = 0; i < VECTORS; i++)
      *reinterpret_cast<Unaligned *>(t.out + (o * 2 + i) * lanes) = sum[o][i];
}

template <class A> using Run = void (*)(const Tile<A> &);

constexpr int kBlock = kRegisters >= 32 ? 12 : 6;  // outputs of a tile
template <class A> constexpr int64_t kLanesOf = kBytes / int64_t(sizeof(A));

template <class A, int OUTPUTS = kBlock> Run<A> find(int64_t outputs, int vectors, int64_t spread) {
  if constexpr (OUTPUTS > 1)
    if (outputs < OUTPUTS) return find<A, OUTPUTS - 1>(outputs, vectors, spread);
  if (spread == 9) return vectors == 2 ? tile<A, 2, 9, OUTPUTS> : tile<A, 1, 9, OUTPUTS>;
  return vectors == 2 ? tile<A, 2, 1, OUTPUTS> : tile<A, 1, 1, OUTPUTS>;
}

}  // namespace
}  // namespace cagc
