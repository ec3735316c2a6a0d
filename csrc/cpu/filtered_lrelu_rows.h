// What filtered_lrelu.cpp is made of: sums of rows, and rows of the middle grid from rows of images.
#pragma once
#include "cagc/filtered_lrelu.h"
#include "isa/elements.h"
#include <algorithm>
#include <vector>

namespace cagc {
namespace {

CAGC_INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// n elements, aligned for whole vectors: of the loads that are not, each takes two cache lines.
template <class A> class Aligned {
  std::vector<A> storage;

 public:
  explicit Aligned(int64_t n) : storage(n ? n + 64 / sizeof(A) : 0) {}
  A *data() {
    const auto address = reinterpret_cast<uintptr_t>(storage.data());
    return reinterpret_cast<A *>((address + 63) / 64 * 64);
  }
};

// A weighted sum of rows: term j is weight[j] times the row at in[j].
template <class A> struct Sum {
  std::vector<const A *> in;
  std::vector<A> weight;

  void clear() { in.clear(), weight.clear(); }
  void add(const A *row, A w) { in.push_back(row), weight.push_back(w); }
};

// COUNT: the number of terms, 0 where it is not a constant. `finish` makes an element of the result from its sum and
// its place.
template <int COUNT, class A, class F>
CAGC_INLINE void sum_rows(const Sum<A> &sum, A *__restrict out, int64_t n, F &&finish) {
  using V = Elements<A>;
  constexpr int64_t lanes = V::lanes;
  const int64_t count = COUNT ? COUNT : static_cast<int64_t>(sum.in.size());
  const A *const *in = sum.in.data();
  const A *weight = sum.weight.data();
  const auto vectors = [&](auto width, int64_t i) CAGC_LAMBDA {
    constexpr int many = decltype(width)::value;
    V total[many];
    const V first(weight[0]);
    CAGC_UNROLL for (int k = 0; k < many; k++) total[k] = first * load(in[0] + i + k * lanes);
    for (int64_t j = 1; j < count; j++) {
      const V w(weight[j]);
      CAGC_UNROLL for (int k = 0; k < many; k++) total[k] = total[k] + w * load(in[j] + i + k * lanes);
    }
    CAGC_UNROLL for (int k = 0; k < many; k++) store(out + i + k * lanes, finish(total[k], i + k * lanes));
  };
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) vectors(Width<4>{}, i);
  for (; i < n; i += lanes) vectors(Width<1>{}, i);
}

// out[i] for i < n, rounded up to whole vectors: `out` and the rows must have as many.
template <class A, class F> CAGC_INLINE void sum_rows(const Sum<A> &sum, A *out, int64_t n, F &&finish) {
  switch (sum.in.size()) {
    case 0:
      for (int64_t i = 0; i < n; i += Elements<A>::lanes) store(out + i, finish(Elements<A>(0), i));
      return;
    case 6: return sum_rows<6>(sum, out, n, finish);
    case 12: return sum_rows<12>(sum, out, n, finish);
    default: return sum_rows<0>(sum, out, n, finish);
  }
}

struct Plain {
  template <class V> CAGC_INLINE V operator()(V v, int64_t) const { return v; }
};

// A stretch of the columns of the middle grid, cut into phases: column q * phases + r, counted from `first`, is element
// r * pitch + q of a row.
struct Columns {
  int64_t first, count, phases, pitch;
  int64_t used() const { return std::min(phases, count); }
  int64_t elements() const { return used() * pitch; }
};

// Rows of the middle grid from images of one plane. A row of images is filtered along x once (a separable leg), and
// kept, cut into as many phases as pixels lie between one column of a phase and the next, for the rows that read it.
template <class T> class Spread {
  using A = acc_t<T>;
  struct Term {
    int64_t offset;  // into the cut row
    int64_t tap;
  };
  const Leg leg;
  const Axis down;  // the axis of rows
  const Columns columns;
  const int64_t height, width, stride;
  int64_t cuts, low, cut_pitch, slots;
  std::vector<std::vector<Term>> terms;  // of each phase of columns
  Aligned<A> cut{0}, kept{0};
  std::vector<int64_t> inside;  // which row a slot of `kept` has
  Sum<A> sum;
  std::vector<Sum<A>> sums_of_pixels;  // of a separable leg: each phase, of the row in `cut`
  const T *plane = nullptr;
  A bias = A(0);

 public:
  Spread(const Leg &l, const Columns &c, int64_t h, int64_t w, int64_t row_stride)
      : leg(l), down{l.factor, 1, l.pad_y, l.h}, columns(c), height(h), width(w), stride(row_stride) {
    const Axis across{leg.factor, 1, leg.pad_x - columns.first, leg.w};
    cuts = columns.phases / leg.factor;
    low = window(across, 0).first;
    int64_t longest = 0;
    for (int64_t r = 0; r < columns.used(); r++) {
      const Window w = window(across, r);
      terms.emplace_back();
      for (int64_t j = 0; j < w.count; j++) {
        const int64_t pixel = w.first - low + j;
        terms[r].push_back({pixel, w.k0 + j * leg.factor});
        longest = std::max(longest, pixel / cuts);
      }
    }
    cut_pitch = round_up(columns.pitch + longest, Elements<A>::lanes);
    for (auto &phase : terms)
      for (Term &term : phase) term.offset = term.offset % cuts * cut_pitch + term.offset / cuts;
    slots = (leg.h + leg.factor - 1) / leg.factor + 1;
    cut = Aligned<A>(leg.separable ? cuts * cut_pitch : 0);
    kept = Aligned<A>(slots * slot());
    for (int64_t r = 0; leg.separable && r < columns.used(); r++) {
      sums_of_pixels.emplace_back();
      for (const Term &t : terms[r]) sums_of_pixels[r].add(cut.data() + t.offset, axis_tap<A>(leg, t.tap));
    }
    inside.resize(slots);
  }

  void begin(const T *images, A b) {
    plane = images, bias = b;
    std::fill(inside.begin(), inside.end(), -1);
  }

  // Row m of the middle grid.
  template <class F> CAGC_INLINE void row(int64_t m, A *out, F &&finish) {
    const Window w = window(down, m);
    const int64_t first = std::max<int64_t>(0, -w.first), end = std::min(w.count, height - w.first);
    sum.clear();
    if (leg.separable) {
      for (int64_t j = first; j < end; j++) sum.add(row_of(w.first + j), axis_tap<A>(leg, w.k0 + j * leg.factor));
      return sum_rows(sum, out, columns.elements(), finish);
    }
    for (int64_t r = 0; r < columns.used(); r++) {
      sum.clear();
      for (int64_t j = first; j < end; j++) {
        const A *pixels = row_of(w.first + j);
        for (const Term &t : terms[r]) sum.add(pixels + t.offset, tap<A>(leg, w.k0 + j * leg.factor, t.tap));
      }
      const int64_t at = r * columns.pitch;
      sum_rows(sum, out + at, columns.pitch, [&](auto v, int64_t i) CAGC_LAMBDA { return finish(v, at + i); });
    }
  }

  // Row y of the images filtered along x by a separable leg; zeros where there is none.
  void filter_row(int64_t y, A *to) {
    if (y < 0 || y >= height) return void(std::fill_n(to, columns.elements(), A(0)));
    cut_row(y, cut.data());
    for (int64_t r = 0; r < columns.used(); r++)
      sum_rows(sums_of_pixels[r], to + r * columns.pitch, columns.pitch, Plain{});
  }

 private:
  int64_t slot() const { return leg.separable ? columns.elements() : cuts * cut_pitch; }

  void cut_row(int64_t y, A *to) const {
    const T *x = plane + y * stride;
    for (int64_t s = 0; s < cuts; s++) {
      // Pixel low + t * cuts + s for each t; of those [begin, end) exist.
      const int64_t from = low + s;
      const int64_t begin = std::clamp<int64_t>(floor_div(-from + cuts - 1, cuts), 0, cut_pitch);
      const int64_t end = std::clamp<int64_t>(floor_div(width - from + cuts - 1, cuts), begin, cut_pitch);
      A *row = to + s * cut_pitch;
      std::fill_n(row, begin, A(0));
      if (cuts == 1)
        for (int64_t t = begin; t < end; t++) row[t] = static_cast<A>(x[from + t]) + bias;
      else
        for (int64_t t = begin; t < end; t++) row[t] = static_cast<A>(x[from + t * cuts]) + bias;
      std::fill_n(row + end, cut_pitch - end, A(0));
    }
  }

  const A *row_of(int64_t y) {
    A *to = kept.data() + y % slots * slot();
    if (inside[y % slots] == y) return to;
    inside[y % slots] = y;
    if (!leg.separable) {
      cut_row(y, to);
      return to;
    }
    filter_row(y, to);
    return to;
  }
};

}  // namespace
}  // namespace cagc
