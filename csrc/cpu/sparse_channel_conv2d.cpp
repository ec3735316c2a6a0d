// Sparse-channel convolution on the CPU: a direct convolution whose weight panel is gathered per block of outputs.
//
// x is copied once into planes of the accumulate type with zeros around them, times its styles. On such a plane, taken
// as one long row, the pixel under tap (dy, dx) of output pixel q is q + dy * pitch + dx, for all q: a register tile is
// some vectors of consecutive q times a block of output channels, and what it computes for the halo columns is
// dropped. For each block the filters it needs, and no others, are gathered into a panel [input, tap, output] that
// stays in the cache while all pixels pass by. Up-sampling falls into up * up phases with taps of their own.
#include "cagc/sparse_channel_conv2d.h"
#include <algorithm>
#include <cmath>
#include <memory>
#include <omp.h>
#include <vector>

namespace cagc {
namespace {

// Waking a team costs about as much as this many multiplications on one thread.
constexpr int64_t kGrain = 1 << 20;
constexpr int64_t kAhead = 16;
constexpr int64_t kMaxBlock = 12, kMaxTile = 32 * kMaxBlock;

template <class A> struct Tile {
  const A *x;  // plane of the first channel, at output pixel 0
  int64_t plane, channels;
  const int64_t *offsets;  // [taps] from an output pixel to what it reads
  int64_t taps;
  const A *panel;  // [channels, taps, block]
  A *out;          // [block, 2 vectors]
};

// VECTORS * BLOCK sums in registers: with 32 registers of 64 bytes 2 x 12, with 16 of 16 or 32 bytes 2 x 6.
template <class A, int BYTES, int VECTORS, int BLOCK> CAGC_HD void tile(const Tile<A> &t) {
  typedef A Vector __attribute__((vector_size(BYTES)));
  typedef A Unaligned __attribute__((vector_size(BYTES), aligned(sizeof(A)), may_alias));
  constexpr int lanes = BYTES / sizeof(A);
  Vector sum[BLOCK][VECTORS] = {};
  const A *w = t.panel, *plane = t.x;
  for (int64_t c = 0; c < t.channels; c++, plane += t.plane) {
    for (int64_t k = 0; k < t.taps; k++, w += BLOCK) {
      const A *x = plane + t.offsets[k];
      Vector v[VECTORS];
#pragma GCC unroll 2
      for (int i = 0; i < VECTORS; i++) {
        v[i] = *reinterpret_cast<const Unaligned *>(x + i * lanes);
        __builtin_prefetch(x + (VECTORS + i) * lanes);
      }
#pragma GCC unroll 12
      for (int o = 0; o < BLOCK; o++)
#pragma GCC unroll 2
        for (int i = 0; i < VECTORS; i++) sum[o][i] += w[o] * v[i];
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
    template <class A, int VECTORS, int OUTPUTS> TARGET static void run(const Tile<A> &t) {                          \
      tile<A, BYTES, VECTORS, OUTPUTS>(t);                                                                           \
    }                                                                                                                \
  }
CAGC_ISA(Baseline, 16, 6, __attribute__((noinline)));
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && !defined(CAGC_NO_CLONES)
CAGC_ISA(Avx2, 32, 6, __attribute__((target("arch=x86-64-v3"), noinline)));
CAGC_ISA(Avx512, 64, 12, __attribute__((target("arch=x86-64-v4"), noinline)));
#endif
#undef CAGC_ISA

template <class A> using Run = void (*)(const Tile<A> &);

template <class A, class Isa, int OUTPUTS = Isa::block> Run<A> find(int64_t outputs, int vectors) {
  if constexpr (OUTPUTS > 1)
    if (outputs < OUTPUTS) return find<A, Isa, OUTPUTS - 1>(outputs, vectors);
  return vectors == 2 ? &Isa::template run<A, 2, OUTPUTS> : &Isa::template run<A, 1, OUTPUTS>;
}

template <class A> struct Machine {
  int64_t lanes, block;
  Run<A> (*find)(int64_t outputs, int vectors);
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

// One axis of one phase, outputs phase, phase + up, ...: `size` of them; output i reads x[i + shift[t]] under tap t.
struct Phase {
  int64_t size;
  std::vector<int64_t> tap, shift;

  Phase(const SparseChannelConv2d &p, int64_t phase, int64_t out)
      : size(std::max<int64_t>(0, out - phase + p.up - 1) / p.up) {
    for (int64_t k = 0; k < p.k; k++) {
      const int64_t at = phase - p.pad + k;
      if (at % p.up == 0) tap.push_back(k), shift.push_back(at / p.up);
    }
  }
};

// One axis of the padded copy of x: zeros before and after.
struct Margin {
  int64_t before = 0, after = 0;

  Margin(const std::vector<Phase> &phases, int64_t in) {
    for (const Phase &phase : phases)
      for (int64_t shift : phase.shift)
        before = std::max(before, -shift), after = std::max(after, phase.size + shift - in);
  }
};

// Everything that is the same for all threads.
template <class T> struct Plan {
  using A = acc_t<T>;
  const SparseChannelConv2d p;
  const Machine<A> machine;
  std::vector<Phase> rows, columns;
  Margin top, left;
  int64_t pitch, height, plane;  // of the padded copy; a row's right margin is the next one's left
  int64_t blocks, block;         // output channels: how many blocks, how many in each but the last
  std::vector<int64_t> offsets;              // [k * k] of each tap, phase by phase
  std::vector<int64_t> tap;                  // [k * k] offset in a filter
  std::vector<int64_t> first_tap;            // [up * up + 1]
  std::vector<int64_t> first_tile;           // [up * up + 1] of one image and block
  std::unique_ptr<A[]> padded;

  explicit Plan(const SparseChannelConv2d &params)
      : p(params), machine(this_machine<A>()), rows(phases(p.out_h)), columns(phases(p.out_w)), top(rows, p.in_h),
        left(columns, p.in_w) {
    pitch = p.in_w + std::max(left.before, left.after);
    for (const Phase &c : columns) pitch = std::max(pitch, c.size);
    height = top.before + p.in_h + top.after;
    plane = height * pitch;
    blocks = (p.c_out + machine.block - 1) / machine.block;
    block = (p.c_out + blocks - 1) / blocks;
    first_tap.push_back(0), first_tile.push_back(0);
    for (const Phase &row : rows)
      for (const Phase &column : columns) {
        for (size_t i = 0; i < row.tap.size(); i++)
          for (size_t j = 0; j < column.tap.size(); j++) {
            offsets.push_back((top.before + row.shift[i]) * pitch + left.before + column.shift[j]);
            tap.push_back(kernel_offset(p, row.tap[i], column.tap[j]));
          }
        const int64_t pixels = row.size && column.size ? (row.size - 1) * pitch + column.size : 0;
        first_tap.push_back(static_cast<int64_t>(tap.size()));
        first_tile.push_back(first_tile.back() + (pixels + tile_width() - 1) / tile_width());
      }
    // The last tile of the last plane reads past its end.
    const int64_t size = p.n * p.c_in * plane, slack = 2 * pitch + tile_width();
    padded.reset(new A[size + slack]);
    std::fill_n(padded.get() + size, slack, A(0));
  }

  std::vector<Phase> phases(int64_t out) const {
    std::vector<Phase> found;
    for (int64_t phase = 0; phase < p.up; phase++) found.emplace_back(p, phase, out);
    return found;
  }
  int64_t tile_width() const { return 2 * machine.lanes; }
  int64_t units() const { return blocks * p.n * first_tile.back(); }
};

template <class T, class A> CAGC_CLONES void pad_row(const T *x, int64_t stride, A style, A *out, int64_t n) {
  if (stride == 1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) out[i] = static_cast<A>(x[i]) * style;
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = static_cast<A>(x[i * stride]) * style;
  }
}

// Row `row` of the padded planes of all channels of image n.
template <class T> void pad_rows(const Plan<T> &plan, int64_t n, int64_t row) {
  using A = acc_t<T>;
  const SparseChannelConv2d &p = plan.p;
  const int64_t y = row - plan.top.before, before = plan.left.before;
  const T *x = static_cast<const T *>(p.x) + n * p.x_stride[0] + y * p.x_stride[2];
  const A *styles = p.styles ? static_cast<const A *>(p.styles) + n * p.c_in : nullptr;
  for (int64_t c = 0; c < p.c_in; c++) {
    A *out = plan.padded.get() + (n * p.c_in + c) * plan.plane + row * plan.pitch;
    if (y < 0 || y >= p.in_h) {
      std::fill_n(out, plan.pitch, A(0));
      continue;
    }
    std::fill_n(out, before, A(0));
    pad_row(x + c * p.x_stride[1], p.x_stride[3], styles ? styles[c] : A(1), out + before, p.in_w);
    std::fill(out + before + p.in_w, out + plan.pitch, A(0));
  }
}

// The filters of one block of outputs, and what their results are multiplied by.
template <class A> struct Panel {
  int64_t outputs = 0;
  std::vector<A> weights;  // phase by phase [c_in, taps, outputs]
  std::vector<A> factors;  // [n, outputs]
};

template <class W, class T> CAGC_CLONES void gather(const Plan<T> &plan, int64_t first, Panel<acc_t<T>> &panel) {
  using A = acc_t<T>;
  const SparseChannelConv2d &p = plan.p;
  const int64_t outputs = panel.outputs, taps = p.k * p.k;
  std::vector<A> energy(p.demodulate ? outputs * p.c_in : 0);
  for (int64_t phase = 0; phase < p.up * p.up; phase++) {
    const int64_t begin = plan.first_tap[phase], count = plan.first_tap[phase + 1] - begin;
    const int64_t *tap = plan.tap.data() + begin;
    for (int64_t o = 0; o < outputs; o++) {
      const W *filters = static_cast<const W *>(p.weight) + p.out_channels[first + o] * p.weight_stride[0];
      for (int64_t c = 0; c < p.c_in; c++) {
        const W *w = filters + p.in_channels[c] * p.weight_stride[1];
        if (c + kAhead < p.c_in) {
          const W *ahead = filters + p.in_channels[c + kAhead] * p.weight_stride[1];
          __builtin_prefetch(ahead), __builtin_prefetch(ahead + taps - 1);
        }
        A *to = panel.weights.data() + ((begin * p.c_in) + c * count) * outputs + o, squares = A(0);
        for (int64_t t = 0; t < count; t++) {
          const A value = static_cast<A>(w[tap[t]]);
          to[t * outputs] = value;
          squares += value * value;
        }
        if (p.demodulate) energy[o * p.c_in + c] += squares;
      }
    }
  }
  std::fill(panel.factors.begin(), panel.factors.end(), A(1));
  if (!p.demodulate || !taps) return;
  for (int64_t n = 0; n < p.n; n++) {
    const A *s = static_cast<const A *>(p.styles) + n * p.c_in;
    for (int64_t o = 0; o < outputs; o++) {
      A sum = A(0);
      for (int64_t c = 0; c < p.c_in; c++) sum += s[c] * s[c] * energy[o * p.c_in + c];
      panel.factors[n * outputs + o] = A(1) / std::sqrt(sum + static_cast<A>(kDemodulationEps));
    }
  }
}

// A stretch of one output row, for all outputs of a block.
template <class T> struct Stretch {
  const acc_t<T> *sums;  // [outputs, pitch]
  const acc_t<T> *factors;
  T *const *rows;  // [outputs] where each begins
  int64_t outputs, pitch, n, step;
  bool adjacent;  // the outputs of a pixel are
};

template <class T> CAGC_CLONES void store(const Stretch<T> s) {
  using A = acc_t<T>;
  if (s.adjacent) {
    for (int64_t i = 0; i < s.n; i++) {
      T *pixel = s.rows[0] + i * s.step;
      for (int64_t o = 0; o < s.outputs; o++) pixel[o] = static_cast<T>(s.sums[o * s.pitch + i] * s.factors[o]);
    }
    return;
  }
  for (int64_t o = 0; o < s.outputs; o++) {
    const A *sums = s.sums + o * s.pitch, factor = s.factors[o];
    T *row = s.rows[o];
    if (s.step == 1) {
#pragma GCC ivdep
      for (int64_t i = 0; i < s.n; i++) row[i] = static_cast<T>(sums[i] * factor);
    } else {
      for (int64_t i = 0; i < s.n; i++) row[i * s.step] = static_cast<T>(sums[i] * factor);
    }
  }
}

// Pixels [q, end) of the long row of a phase, without its halo columns.
template <class T>
void store_tile(const Plan<T> &plan, const Panel<acc_t<T>> &panel, const acc_t<T> *sums, int64_t first, int64_t n,
                int64_t phase, int64_t q0, int64_t end) {
  const SparseChannelConv2d &p = plan.p;
  const int64_t py = phase / p.up, px = phase % p.up, columns = plan.columns[px].size;
  T *const image = static_cast<T *>(p.out) + n * p.out_stride[0];
  T *rows[kMaxBlock];
  for (int64_t q = q0; q < end;) {
    const int64_t i = q / plan.pitch, j = q % plan.pitch, length = std::min(columns - j, end - q);
    if (length > 0) {
      T *pixel = image + (i * p.up + py) * p.out_stride[2] + (j * p.up + px) * p.out_stride[3];
      for (int64_t o = 0; o < panel.outputs; o++) rows[o] = pixel + output_channel(p, first + o) * p.out_stride[1];
      store<T>({sums + q - q0, panel.factors.data() + n * panel.outputs, rows, panel.outputs, plan.tile_width(), length,
                p.out_stride[3] * p.up, p.out_stride[1] == 1 && !p.scatter});
    }
    q += std::min(plan.pitch - j, end - q);
  }
}

// Units [begin, end) of all blocks, images, phases and tiles, in this order.
template <class T> void convolve(const Plan<T> &plan, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const SparseChannelConv2d &p = plan.p;
  const int64_t tiles = plan.first_tile.back(), width = plan.tile_width();
  alignas(64) A sums[kMaxTile];
  Panel<A> panel;
  int64_t packed = -1;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t block = unit / tiles / p.n, n = unit / tiles % p.n, first = block * plan.block;
    if (block != packed) {
      packed = block;
      panel.outputs = std::min(plan.block, p.c_out - first);
      panel.weights.resize(p.c_in * p.k * p.k * panel.outputs);
      panel.factors.resize(p.n * panel.outputs);
      if (p.weight_dtype == p.dtype) gather<T>(plan, first, panel);
      else gather<float>(plan, first, panel);
    }
    const int64_t in_image = unit % tiles;
    const int64_t phase = std::upper_bound(plan.first_tile.begin(), plan.first_tile.end(), in_image) -
                          plan.first_tile.begin() - 1;
    const Phase &row = plan.rows[phase / p.up], &column = plan.columns[phase % p.up];
    const int64_t pixels = (row.size - 1) * plan.pitch + column.size;
    const int64_t q = (in_image - plan.first_tile[phase]) * width, last = std::min(q + width, pixels);
    const int64_t tap = plan.first_tap[phase];
    const Tile<A> t{plan.padded.get() + n * p.c_in * plan.plane + q, plan.plane, p.c_in, plan.offsets.data() + tap,
                    plan.first_tap[phase + 1] - tap, panel.weights.data() + tap * p.c_in * panel.outputs, sums};
    plan.machine.find(panel.outputs, last - q > plan.machine.lanes ? 2 : 1)(t);
    store_tile(plan, panel, sums, first, n, phase, q, last);
  }
}

template <class T> void run(const SparseChannelConv2d &p, int threads) {
  const Plan<T> plan(p);
  const int64_t rows = p.n * plan.height, units = plan.units();
  const int64_t work = p.n * p.c_in * p.c_out * p.k * p.k * p.in_h * p.in_w;
  const int64_t team = std::max<int64_t>(1, std::min<int64_t>(threads, work / kGrain));
#pragma omp parallel num_threads(team)
  {
    const int64_t t = omp_get_thread_num(), n = omp_get_num_threads();
    for (int64_t r = rows * t / n; r < rows * (t + 1) / n; r++) pad_rows(plan, r / plan.height, r % plan.height);
#pragma omp barrier
    convolve(plan, units * t / n, units * (t + 1) / n);
  }
}

}  // namespace

void sparse_channel_conv2d_cpu(const SparseChannelConv2d &p, int threads) {
  if (p.n * p.c_out * p.out_h * p.out_w == 0) return;
  with_dtype(p.dtype, [&](auto type) { run<typename decltype(type)::type>(p, threads); });
}

}  // namespace cagc
