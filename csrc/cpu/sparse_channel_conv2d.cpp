// Sparse-channel convolution on the CPU: a direct convolution whose weight panel is gathered per block of outputs.
//
// x times its styles is copied once into planes of the accumulate type, padded with zeros. With a plane as one long
// row, tap (dy, dx) of output pixel q reads pixel q + dy * pitch + dx, for all q. A register tile is a few vectors of
// consecutive q times a block of output channels; its results for the padding columns are dropped. Small images would
// consist mostly of padding, so their pixels are copied once per tap instead, without padding. For each block of
// outputs only the filters that it needs are gathered, into a panel that stays in the cache during the loop over
// pixels. Up-sampling is divided into up * up phases, each with its own taps.
#include "sparse_channel_conv2d_tiles.h"
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include "openmp.h"
#include <vector>

namespace cagc {

namespace CAGC_LEVEL { void sparse_channel_conv2d(const SparseChannelConv2d &, int threads); }

namespace {

// Starting the threads costs about as much as this many multiplications on one thread.
constexpr int64_t kGrain = 1 << 20;
constexpr int64_t kAhead = 4;
// Per-tap copies are read once for each block of outputs, so they must fit the L2 cache.
constexpr int64_t kMaxCopies = 512 << 10;

// One axis of one phase, which has `size` outputs: phase, phase + up, ... Tap t of output i reads x[i + shift[t]].
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

// Sizes and tables shared by all threads.
template <class T> struct Plan {
  using A = acc_t<T>;
  const SparseChannelConv2d p;
  std::vector<Phase> rows, columns;
  Margin top, left;
  int64_t pitch, height, plane;  // of the padded copy; the right padding of a row is the left padding of the next
  bool per_tap;                  // the copy holds the output's pixels once per tap
  bool whole;                    // the taps of a filter are stored in the order of their numbers
  int64_t blocks, block;         // number of blocks of output channels, channels per block except the last
  std::vector<int64_t> offsets;     // [k * k] from an output pixel to the one that the tap reads, phase by phase
  std::vector<int64_t> tap;         // [k * k] number of the tap in the kernel of the correlation, row by row
  std::vector<int64_t> element;     // [k * k] offset in a filter of each tap, in that order
  std::vector<int64_t> first_tap;   // [up * up + 1]
  std::vector<int64_t> first_tile;  // [up * up + 1] within one image and block
  std::unique_ptr<A[]> copy;

  explicit Plan(const SparseChannelConv2d &params)
      : p(params), rows(phases(p.out_h)), columns(phases(p.out_w)), top(rows, p.in_h),
        left(columns, p.in_w) {
    pitch = p.in_w + std::max(left.before, left.after);
    for (const Phase &c : columns) pitch = std::max(pitch, c.size);
    height = top.before + p.in_h + top.after;
    plane = height * pitch;
    const int64_t pixels = p.out_h * p.out_w, copies = p.k * p.k * pixels;
    per_tap = p.up == 1 && 5 * vectors(pixels) <= 4 * vectors((p.out_h - 1) * pitch + p.out_w) &&
              p.c_in * copies * static_cast<int64_t>(sizeof(A)) <= kMaxCopies;
    if (per_tap) pitch = p.out_w, plane = copies;
    blocks = (p.c_out + kBlock - 1) / kBlock;
    block = (p.c_out + blocks - 1) / blocks;
    add_phases();
    // Extra elements, because the last tile of the last plane reads past the end of the plane.
    const int64_t size = p.n * p.c_in * plane, slack = 2 * pitch + tile_width();
    copy.reset(new A[size + slack]);
    std::fill_n(copy.get() + size, slack, A(0));
  }

  void add_phases() {
    whole = true;
    for (int64_t t = 0; t < p.k * p.k; t++) {
      element.push_back(kernel_offset(p, t / p.k, t % p.k));
      whole = whole && element[t] == t;
    }
    first_tap.push_back(0), first_tile.push_back(0);
    for (const Phase &row : rows)
      for (const Phase &column : columns) {
        for (size_t i = 0; i < row.tap.size(); i++)
          for (size_t j = 0; j < column.tap.size(); j++) {
            tap.push_back(row.tap[i] * p.k + column.tap[j]);
            offsets.push_back(per_tap ? tap.back() * p.out_h * p.out_w
                                      : (top.before + row.shift[i]) * pitch + left.before + column.shift[j]);
          }
        const int64_t pixels = row.size && column.size ? (row.size - 1) * pitch + column.size : 0;
        first_tap.push_back(static_cast<int64_t>(tap.size()));
        first_tile.push_back(first_tile.back() + (pixels + tile_width() - 1) / tile_width());
      }
  }

  std::vector<Phase> phases(int64_t out) const {
    std::vector<Phase> found;
    for (int64_t phase = 0; phase < p.up; phase++) found.emplace_back(p, phase, out);
    return found;
  }
  int64_t tile_width() const { return 2 * kLanesOf<A>; }
  int64_t vectors(int64_t pixels) const { return (pixels + kLanesOf<A> - 1) / kLanesOf<A>; }
  int64_t units() const { return blocks * p.n * first_tile.back(); }
};

template <class T, class A> CAGC_NOINLINE void pad_row(const T *x, int64_t stride, A style, A *out, int64_t n) {
  if (stride == 1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) out[i] = static_cast<A>(x[i]) * style;
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = static_cast<A>(x[i * stride]) * style;
  }
}

// Copies row `row` of the padded planes of all channels of image n.
template <class T> void pad_rows(const Plan<T> &plan, int64_t n, int64_t row) {
  using A = acc_t<T>;
  const SparseChannelConv2d &p = plan.p;
  const int64_t y = row - plan.top.before, before = plan.left.before;
  const T *x = static_cast<const T *>(p.x) + n * p.x_stride[0] + y * p.x_stride[2];
  const A *styles = p.styles ? static_cast<const A *>(p.styles) + n * p.c_in : nullptr;
  for (int64_t c = 0; c < p.c_in; c++) {
    A *out = plan.copy.get() + (n * p.c_in + c) * plan.plane + row * plan.pitch;
    if (y < 0 || y >= p.in_h) {
      std::fill_n(out, plan.pitch, A(0));
      continue;
    }
    std::fill_n(out, before, A(0));
    pad_row(x + c * p.x_stride[1], p.x_stride[3], styles ? styles[c] : A(1), out + before, p.in_w);
    std::fill(out + before + p.in_w, out + plan.pitch, A(0));
  }
}

// Copies, for each tap, the pixels of channel c of image n that the tap reads for all output pixels.
template <class T> void copy_taps(const Plan<T> &plan, int64_t n, int64_t c) {
  using A = acc_t<T>;
  const SparseChannelConv2d &p = plan.p;
  const T *x = static_cast<const T *>(p.x) + n * p.x_stride[0] + c * p.x_stride[1];
  const A style = p.styles ? static_cast<const A *>(p.styles)[n * p.c_in + c] : A(1);
  A *out = plan.copy.get() + (n * p.c_in + c) * plan.plane;
  for (int64_t t = 0; t < p.k * p.k; t++) {
    const int64_t down = t / p.k - p.pad, right = t % p.k - p.pad;
    const int64_t first = std::min(p.out_w, std::max<int64_t>(0, -right));
    const int64_t end = std::max(first, std::min(p.out_w, p.in_w - right));
    for (int64_t i = 0; i < p.out_h; i++, out += p.out_w) {
      if (i + down < 0 || i + down >= p.in_h) {
        std::fill_n(out, p.out_w, A(0));
        continue;
      }
      const T *row = x + (i + down) * p.x_stride[2] + right * p.x_stride[3];
      std::fill_n(out, first, A(0));
      for (int64_t j = first; j < end; j++) out[j] = static_cast<A>(row[j * p.x_stride[3]]) * style;
      std::fill(out + end, out + p.out_w, A(0));
    }
  }
}

// The filters of a block of outputs, and the factors of their results.
template <class A> struct Panel {
  int64_t outputs = 0, row = 0;    // row: k * k * outputs
  std::vector<int64_t> positions;  // [k * k] as in Tile
  std::vector<A> weights;          // [c_in, row]
  std::vector<A> factors;          // [n, outputs]

  void resize(const SparseChannelConv2d &p, const std::vector<int64_t> &tap, int64_t count) {
    outputs = count, row = p.k * p.k * count;
    positions.clear();
    for (int64_t t : tap) positions.push_back(spread(p.k) == 1 ? t * outputs : t);
    weights.resize(p.c_in * row);
    factors.resize(p.n * outputs);
  }
};

// Gathers row c of a panel: the filters of input c.
template <class W, class T>
CAGC_NOINLINE void gather_row(const Plan<T> &plan, int64_t first, int64_t c, Panel<acc_t<T>> &panel) {
  using A = acc_t<T>;
  const SparseChannelConv2d &p = plan.p;
  const int64_t outputs = panel.outputs, taps = p.k * p.k, ahead = std::min(c + kAhead, p.c_in - 1);
  const int64_t *element = plan.element.data(), *chosen = p.out_channels + first;
  const W *filters = static_cast<const W *>(p.weight) + p.in_channels[c] * p.weight_stride[1];
  const int64_t jump = (p.in_channels[ahead] - p.in_channels[c]) * p.weight_stride[1];
  A *to = panel.weights.data() + c * panel.row;
  for (int64_t o = 0; o < outputs; o++) {
    const W *w = filters + chosen[o] * p.weight_stride[0];
    __builtin_prefetch(w + jump), __builtin_prefetch(w + jump + taps - 1);
    if (spread(p.k) == 1) {
      for (int64_t t = 0; t < taps; t++) to[t * outputs + o] = static_cast<A>(w[element[t]]);
    } else if (plan.whole && std::is_same<W, A>::value) {
      std::memcpy(to + o * 9, w, 9 * sizeof(A));
    } else {
      for (int64_t t = 0; t < 9; t++) to[o * 9 + t] = static_cast<A>(w[element[t]]);
    }
  }
}

// sums [n, row] += squares of row c of a panel times the squared styles of input c.
template <class T>
CAGC_NOINLINE void add_energy(const SparseChannelConv2d &p, int64_t c, const Panel<acc_t<T>> &panel, acc_t<T> *sums) {
  using A = acc_t<T>;
  const A *w = panel.weights.data() + c * panel.row;
  for (int64_t n = 0; n < p.n; n++, sums += panel.row) {
    const A style = static_cast<const A *>(p.styles)[n * p.c_in + c], square = style * style;
#pragma GCC ivdep
    for (int64_t i = 0; i < panel.row; i++) sums[i] += square * (w[i] * w[i]);
  }
}

template <class W, class T> void gather(const Plan<T> &plan, int64_t first, Panel<acc_t<T>> &panel) {
  using A = acc_t<T>;
  const SparseChannelConv2d &p = plan.p;
  std::vector<A> sums(p.demodulate ? p.n * panel.row : 0);
  for (int64_t c = 0; c < p.c_in; c++) {
    gather_row<W>(plan, first, c, panel);
    if (p.demodulate) add_energy<T>(p, c, panel, sums.data());
  }
  std::fill(panel.factors.begin(), panel.factors.end(), A(1));
  if (!p.demodulate) return;
  for (int64_t n = 0; n < p.n; n++)
    for (int64_t o = 0; o < panel.outputs; o++) {
      A energy = A(0);
      for (int64_t t : panel.positions) energy += sums[n * panel.row + t + o * spread(p.k)];
      panel.factors[n * panel.outputs + o] = A(1) / std::sqrt(energy + static_cast<A>(kDemodulationEps));
    }
}

// Adjacent pixels of one output row, for all outputs of a block.
template <class T> struct Stretch {
  const acc_t<T> *sums;  // [outputs, pitch]
  const acc_t<T> *factors;
  T *const *rows;  // [outputs] address of the first pixel
  int64_t outputs, pitch, n, step;
  bool adjacent;  // the outputs of a pixel are adjacent in memory
};

template <class T> CAGC_NOINLINE void store(const Stretch<T> s) {
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

// Stores pixels [q, end) of the long row of a phase, without the padding columns.
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

// Computes tiles [begin, end), counted over all blocks, images and phases, in this order.
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
      panel.resize(p, plan.tap, std::min(plan.block, p.c_out - first));
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
    const Tile<A> t{plan.copy.get() + n * p.c_in * plan.plane + q, plan.plane, p.c_in, plan.offsets.data() + tap,
                    panel.positions.data() + tap, plan.first_tap[phase + 1] - tap, panel.weights.data(), panel.row,
                    sums};
    find<A>(panel.outputs, last - q > kLanesOf<A> ? 2 : 1, spread(p.k))(t);
    store_tile(plan, panel, sums, first, n, phase, q, last);
  }
}

template <class T> void run(const SparseChannelConv2d &p, int threads) {
  const Plan<T> plan(p);
  const int64_t copies = p.n * (plan.per_tap ? p.c_in : plan.height), units = plan.units();
  const int64_t work = p.n * p.c_in * p.c_out * p.k * p.k * p.in_h * p.in_w;
  const int64_t team = std::max<int64_t>(1, std::min<int64_t>(threads, work / kGrain));
#pragma omp parallel num_threads(team)
  {
    const int64_t t = omp_get_thread_num(), n = omp_get_num_threads();
    for (int64_t i = copies * t / n; i < copies * (t + 1) / n; i++) {
      if (plan.per_tap) copy_taps(plan, i / p.c_in, i % p.c_in);
      else pad_rows(plan, i / plan.height, i % plan.height);
    }
#pragma omp barrier
    convolve(plan, units * t / n, units * (t + 1) / n);
  }
}

}  // namespace

void CAGC_LEVEL::sparse_channel_conv2d(const SparseChannelConv2d &p, int threads) {
  if (p.n * p.c_out * p.out_h * p.out_w == 0) return;
  with_dtype(p.dtype, [&](auto type) { run<typename decltype(type)::type>(p, threads); });
}

}  // namespace cagc
