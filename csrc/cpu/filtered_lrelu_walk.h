// The layers of StyleGAN3 but for those of radial filters: 12 taps that halve, and 6 for each phase of up-sampling. Of
// the two passes along y nothing is stored between them: each vector of columns is walked downwards, and of the middle
// grid only the sums that its rows are added to are kept, in registers.
#pragma once
#include "filtered_lrelu_rows.h"
#include <limits>

namespace cagc {
namespace {

template <class T> class Walk {
  using A = acc_t<T>;
  using V = Elements<A>;
  static constexpr int64_t kTaps = 6;    // of a phase: rows under one row of the middle grid
  static constexpr int64_t kOpen = 5;    // results that a pair of rows of the grid adds to and does not complete
  static constexpr int64_t kSteps = 16;  // pairs of rows that are walked at once: their images' rows stay in L1 and L2
  const Leg spread;
  const Axis axis;
  const int64_t elements, capacity;
  const BiasActScalars<V> scalars;
  A down[2 * (kOpen + 1)];
  std::vector<A> up;             // kTaps for each phase
  Aligned<A> images, open, out;  // rows of images filtered along x; sums; rows of the result filtered along y
  int64_t first = 0, end = 0;    // which rows `images` has
  struct Row {
    int64_t offset;  // of the first of the rows of images
    const A *taps;
  } middle[2 * kSteps];

 public:
  static bool takes(const FilteredLrelu &p) {
    return p.route == Route::value && p.fu_separable && p.fd_separable && p.down == 2 && p.fd_w == 2 * (kOpen + 1) &&
           p.fu_w == kTaps * p.up;
  }

  Walk(const FilteredLrelu &p, const Columns &columns, int64_t slack)
      : spread(spread_of_x(p)), axis{spread.factor, 1, spread.pad_y, spread.h}, elements(columns.elements()),
        capacity(2 * kSteps / spread.factor + kTaps + 2), scalars(scalars_of<V>(p)), images(capacity * elements),
        open(kOpen * elements), out(kSteps * elements + slack) {
    for (int64_t k = 0; k < 2 * (kOpen + 1); k++) down[k] = axis_tap<A>(gather_of(p), k);
    for (int64_t phase = 0; phase < spread.factor; phase++)
      for (int64_t j = 0; j < kTaps; j++) up.push_back(axis_tap<A>(spread, phase + j * spread.factor));
  }

  // put(o, row) for each row [from, to) of the result, filtered along y, from x at the start of its plane.
  template <class F> void rows(Spread<T> &x, int64_t from, int64_t to, F &&put) {
    std::fill_n(open.data(), kOpen * elements, A(0));
    first = end = std::numeric_limits<int64_t>::min();
    // Step j adds rows 2 j and 2 j + 1 of the grid, and completes row j - kOpen of the result.
    for (int64_t j = from; j < to + kOpen; j += kSteps) {
      const int64_t steps = std::min(kSteps, to + kOpen - j);
      fetch(x, j, steps);
      walk(steps);
      for (int64_t s = std::max<int64_t>(0, from + kOpen - j); s < steps; s++)
        put(j + s - kOpen, out.data() + s * elements);
    }
  }

 private:
  // The rows of images under `steps` pairs of rows of the grid from pair j on.
  void fetch(Spread<T> &x, int64_t j, int64_t steps) {
    const int64_t low = window(axis, 2 * j).first, high = window(axis, 2 * (j + steps) - 1).first + kTaps;
    if (low >= end) first = end = low;
    std::copy(images.data() + (low - first) * elements, images.data() + (end - first) * elements, images.data());
    for (first = low; end < high; end++) x.filter_row(end, images.data() + (end - first) * elements);
    for (int64_t m = 0; m < 2 * steps; m++) {
      const Window w = window(axis, 2 * j + m);
      middle[m] = {(w.first - first) * elements, up.data() + w.k0 * kTaps};
    }
  }

  CAGC_INLINE V at(const Row &row, const A *x) const {
    const A *in = x + row.offset;
    V sum = V(row.taps[0]) * load(in);
    CAGC_UNROLL for (int64_t k = 1; k < kTaps; k++) sum = sum + V(row.taps[k]) * load(in + k * elements);
    return bias_act_element<Act::lrelu, Pass::value>(sum, V(0), V(0), scalars);
  }

  CAGC_NOINLINE void walk(int64_t steps) {
    V w[2 * (kOpen + 1)];
    CAGC_UNROLL for (int64_t k = 0; k < 2 * (kOpen + 1); k++) w[k] = V(down[k]);
    for (int64_t i = 0; i < elements; i += V::lanes) {
      V sum[kOpen];
      CAGC_UNROLL for (int64_t k = 0; k < kOpen; k++) sum[k] = load(open.data() + k * elements + i);
      for (int64_t s = 0; s < steps; s++) {
        const V a = at(middle[2 * s], images.data() + i), b = at(middle[2 * s + 1], images.data() + i);
        store(out.data() + s * elements + i, sum[kOpen - 1] + w[2 * kOpen] * a + w[2 * kOpen + 1] * b);
        CAGC_UNROLL for (int64_t k = kOpen - 1; k > 0; k--) sum[k] = sum[k - 1] + w[2 * k] * a + w[2 * k + 1] * b;
        sum[0] = w[0] * a + w[1] * b;
      }
      CAGC_UNROLL for (int64_t k = 0; k < kOpen; k++) store(open.data() + k * elements + i, sum[k]);
    }
  }
};

}  // namespace
}  // namespace cagc
