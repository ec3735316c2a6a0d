// The register tiles of sparse-channel convolution on the CPU, one set for each instruction set.
#pragma once
#include "cagc/common.h"

namespace cagc {
namespace {

constexpr int64_t kMaxBlock = 12, kMaxTile = 32 * kMaxBlock;

template <class A> struct Tile {
  const A *x;  // plane of the first channel, at output pixel 0
  int64_t plane, channels;
  const int64_t *offsets;    // [taps] from an output pixel to what it reads
  const int64_t *positions;  // [taps] in a row of the panel, of the first output
  int64_t taps;
  const A *panel;  // [channels, row]
  int64_t row;
  A *out;  // [block, 2 vectors]
};

// From an output's weights in a row of the panel to the next one's: filters of 3 x 3 are copied whole, of others the
// outputs lie side by side.
constexpr int64_t spread(int64_t k) { return k == 3 ? 9 : 1; }

// VECTORS * BLOCK sums in registers: with 32 registers of 64 bytes 2 x 12, with 16 of 16 or 32 bytes 2 x 6.
template <class A, int BYTES, int VECTORS, int SPREAD, int BLOCK> CAGC_HD void tile(const Tile<A> &t) {
  typedef A Vector __attribute__((vector_size(BYTES)));
  typedef A Unaligned __attribute__((vector_size(BYTES), aligned(sizeof(A)), may_alias));
  constexpr int lanes = BYTES / sizeof(A);
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

// One instruction set: its vector, its largest block, and its tiles. target_clones would give all of them one shape.
#define CAGC_ISA(NAME, BYTES, BLOCK, TARGET)                                                                         \
  struct NAME {                                                                                                      \
    static constexpr int bytes = BYTES, block = BLOCK;                                                               \
    template <class A, int VECTORS, int SPREAD, int OUTPUTS> TARGET static void run(const Tile<A> &t) {              \
      tile<A, BYTES, VECTORS, SPREAD, OUTPUTS>(t);                                                                   \
    }                                                                                                                \
  }
CAGC_ISA(Baseline, 16, 6, __attribute__((noinline)));
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && !defined(CAGC_NO_CLONES)
CAGC_ISA(Avx2, 32, 6, __attribute__((target("arch=x86-64-v3"), noinline)));
CAGC_ISA(Avx512, 64, 12, __attribute__((target("arch=x86-64-v4"), noinline)));
#endif
#undef CAGC_ISA

template <class A> using Run = void (*)(const Tile<A> &);

template <class A, class Isa, int OUTPUTS = Isa::block> Run<A> find(int64_t outputs, int vectors, int64_t spread) {
  if constexpr (OUTPUTS > 1)
    if (outputs < OUTPUTS) return find<A, Isa, OUTPUTS - 1>(outputs, vectors, spread);
  if (spread == 9) return vectors == 2 ? &Isa::template run<A, 2, 9, OUTPUTS> : &Isa::template run<A, 1, 9, OUTPUTS>;
  return vectors == 2 ? &Isa::template run<A, 2, 1, OUTPUTS> : &Isa::template run<A, 1, 1, OUTPUTS>;
}

template <class A> struct Machine {
  int64_t lanes, block;
  Run<A> (*find)(int64_t outputs, int vectors, int64_t spread);
};

template <class A, class Isa> Machine<A> machine() {
  return {Isa::bytes / int64_t(sizeof(A)), Isa::block, find<A, Isa>};
}

template <class A> Machine<A> this_machine() {
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && !defined(CAGC_NO_CLONES)
  if (__builtin_cpu_supports("x86-64-v4")) return machine<A, Avx512>();
  if (__builtin_cpu_supports("x86-64-v3")) return machine<A, Avx2>();
#endif
  return machine<A, Baseline>();
}

}  // namespace
}  // namespace cagc
