// filtered_lrelu on the CPU, row after row of the result. Only as many rows of the middle grid, and of images filtered
// along x alone, are kept as the filters are long, so that they stay in the cache. Columns of the grid are stored by
// phase (element r * pitch + q is column q * phases + r): every pass over them is then a weighted sum of rows of
// adjacent elements, and no inserted zero is multiplied.
#pragma GCC diagnostic ignored "-Wpsabi"
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the compiler's own headers of AVX-512
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "filtered_lrelu_walk.h"
#include <memory>
#include <numeric>
#include "openmp.h"

namespace cagc {

namespace CAGC_LEVEL { void filtered_lrelu(const FilteredLrelu &, int threads); }

namespace {

// Up to 32k elements, one thread is faster than starting several (the grain size of at::parallel_for).
constexpr int64_t kGrain = 32768;
// Columns of the result in one stripe: the rows that are kept of its part of the middle grid fit into L2.
constexpr int64_t kStripe = 512;
// The fewest rows of a block: it computes again some rows of the middle grid that the block above has computed.
constexpr int64_t kFewestRows = 32;
constexpr int64_t kBlocksPerThread = 4;

// One filter of the gathering side. Rows of equal taps, such as those of a filter that is the same upside down, are
// one group: the rows of the grid under them are added before they are filtered along x.
template <class A> struct Groups {
  std::vector<std::vector<A>> taps;       // of each group, along x
  std::vector<std::vector<int64_t>> rows;  // that a group is the sum of
  std::vector<A> column;                   // weight of each row; ones where the filter is not a product

  explicit Groups(const Leg &leg) : column(leg.h, A(1)) {
    for (int64_t i = 0; i < leg.h; i++) {
      std::vector<A> row(leg.w);
      for (int64_t j = 0; j < leg.w; j++) row[j] = leg.separable ? axis_tap<A>(leg, j) : tap<A>(leg, i, j);
      if (leg.separable) column[i] = axis_tap<A>(leg, i);
      const size_t g = std::find(taps.begin(), taps.end(), row) - taps.begin();
      if (g == taps.size()) taps.push_back(row), rows.emplace_back();
      rows[g].push_back(i);
    }
  }
};

// Where the columns [begin, end) of the result are made from.
Columns columns_under(const Leg &gather, int64_t begin, int64_t end, int64_t phases, int64_t lanes) {
  const int64_t count = (end - begin - 1) * gather.factor + gather.w;
  return {begin * gather.factor - gather.pad_x, count, phases, round_up((count + phases - 1) / phases, lanes)};
}

template <class T, class A> void interleave(const A *even, const A *odd, T *__restrict out, int64_t n) {
  for (int64_t i = 0; i < n / 2; i++) out[2 * i] = static_cast<T>(even[i]), out[2 * i + 1] = static_cast<T>(odd[i]);
  if (n % 2) out[n - 1] = static_cast<T>(even[n / 2]);
}

// One stripe of columns of the result, for any plane.
template <class T> class Stripe {
  using A = acc_t<T>;
  static constexpr int64_t lanes = Elements<A>::lanes;
  const FilteredLrelu &p;
  const Leg leg;
  const int64_t begin, end;
  const Columns columns;
  const Groups<A> groups;
  const BiasActScalars<Elements<A>> scalars;
  Spread<T> x, g;
  const int64_t phases_out;  // phases of the result
  Aligned<A> middle{0}, sums{0}, value{0}, result{0};
  int64_t result_pitch;
  Sum<A> sum;
  std::vector<Sum<A>> of_phase;  // of the result, of pixels along x
  std::unique_ptr<Walk<T>> walk;  // where the layer is one that it takes

 public:
  Stripe(const FilteredLrelu &params, int64_t first, int64_t last, int64_t phases)
      : p(params), leg(gather_of(p)), begin(first), end(last), columns(columns_under(leg, first, last, phases, lanes)),
        groups(leg), scalars(scalars_of<Elements<A>>(p)),
        x(spread_of_x(p), columns, p.in_h, p.in_w, p.stride_h),
        g(spread_of_g(p), columns, rows_of_g(p), columns_of_g(p), columns_of_g(p)), phases_out(phases / leg.factor) {
    const int64_t slack = leg.w / columns.phases + 1 + lanes;  // what the last vectors read beyond their row
    result_pitch = round_up((end - begin + phases_out - 1) / phases_out, lanes);
    result = Aligned<A>(result_pitch * std::min(phases_out, end - begin));
    of_phase.resize(std::min(phases_out, end - begin));
    for (Sum<A> &sum : of_phase)
      for (const auto &taps : groups.taps)
        for (A weight : taps) sum.add(nullptr, weight);
    if (Walk<T>::takes(p)) {
      walk = std::make_unique<Walk<T>>(p, columns, slack);
      return;
    }
    middle = Aligned<A>(leg.h * columns.elements());
    sums = Aligned<A>(groups.taps.size() * columns.elements() + slack);
    value = Aligned<A>(p.g ? columns.elements() : 0);
  }

  // Rows [from, to) of a plane of the result.
  void rows(int64_t plane, int64_t from, int64_t to) {
    const A *b = static_cast<const A *>(p.b);
    const T *images = static_cast<const T *>(p.x) + plane / p.c * p.stride_n + plane % p.c * p.stride_c;
    x.begin(images, b ? b[plane % p.c] : A(0));
    if (p.g) g.begin(static_cast<const T *>(p.g) + plane * rows_of_g(p) * columns_of_g(p), A(0));
    const int64_t width = columns_of_result(p);
    T *out = static_cast<T *>(p.out) + plane * rows_of_result(p) * width + begin;
    if (walk)
      return walk->rows(x, from, to, [&](int64_t o, const A *row) CAGC_LAMBDA { across(row, out + o * width); });
    int64_t next = from * leg.factor;
    for (int64_t o = from; o < to; o++) {
      const int64_t top = o * leg.factor;
      for (next = std::max(next, top); next < top + leg.h; next++)
        make_row(next - leg.pad_y, middle.data() + next % leg.h * columns.elements());
      gather(top, out + o * width);
    }
  }

 private:
  void make_row(int64_t m, A *row) {
    if (m < 0 || m >= p.mid_h) return void(std::fill_n(row, columns.elements(), A(0)));
    using V = Elements<A>;
    x.row(m, p.g ? value.data() : row, [&](V v, int64_t) CAGC_LAMBDA {
      return bias_act_element<Act::lrelu, Pass::value>(v, V(0), V(0), scalars);
    });
    if (p.g)
      g.row(m, row, [&](V v, int64_t i) CAGC_LAMBDA {
        return bias_act_element<Act::lrelu, Pass::gradient>(load(value.data() + i), v, V(0), scalars);
      });
    // The grid is zero outside of its columns.
    for (int64_t e = 0; e < std::min(columns.count, -columns.first); e++) row[place(e)] = A(0);
    for (int64_t e = std::max<int64_t>(0, p.mid_w - columns.first); e < columns.count; e++) row[place(e)] = A(0);
  }

  int64_t place(int64_t e) const { return e % columns.phases * columns.pitch + e / columns.phases; }

  void gather(int64_t top, T *out) {
    const int64_t elements = columns.elements();
    for (size_t k = 0; k < groups.taps.size(); k++) {
      sum.clear();
      for (int64_t i : groups.rows[k]) sum.add(middle.data() + (top + i) % leg.h * elements, groups.column[i]);
      sum_rows(sum, sums.data() + k * elements, elements, Plain{});
    }
    across(sums.data(), out);
  }

  // A row of the result from the sums of rows of each group.
  void across(const A *rows, T *out) {
    const int64_t width = end - begin, phases = std::min(phases_out, width);
    for (int64_t s = 0; s < phases; s++) {
      Sum<A> &sum = of_phase[s];
      for (size_t k = 0, at = 0; k < groups.taps.size(); k++)
        for (int64_t j = 0; j < leg.w; j++)
          sum.in[at++] = rows + k * columns.elements() + place(s * leg.factor + j);
      sum_rows(sum, result.data() + s * result_pitch, (width - s + phases_out - 1) / phases_out, Plain{});
    }
    const A *from = result.data();
    if (phases_out == 1)
      for (int64_t i = 0; i < width; i++) out[i] = static_cast<T>(from[i]);
    else if (phases_out == 2)
      interleave(from, from + result_pitch, out, width);
    else
      for (int64_t s = 0; s < phases; s++)
        for (int64_t i = s; i < width; i += phases_out)
          out[i] = static_cast<T>(from[s * result_pitch + i / phases_out]);
  }
};

// Blocks of rows of stripes of planes: [begin, end) of all of them.
struct Blocks {
  int64_t planes, stripes, blocks, width, height;
  int64_t stripe_width;
  int64_t count() const { return planes * stripes * blocks; }
};

template <class T> void work(const FilteredLrelu &p, const Blocks &all, int64_t phases, int64_t begin, int64_t end) {
  while (begin < end) {
    const int64_t stripe = begin / (all.planes * all.blocks), first = stripe * all.stripe_width;
    Stripe<T> columns(p, first, std::min(all.width, first + all.stripe_width), phases);
    const int64_t last = std::min(end, (stripe + 1) * all.planes * all.blocks);
    for (; begin < last; begin++) {
      const int64_t i = begin % (all.planes * all.blocks), plane = i / all.blocks, block = i % all.blocks;
      columns.rows(plane, all.height * block / all.blocks, all.height * (block + 1) / all.blocks);
    }
  }
}

template <class T> void over_threads(const FilteredLrelu &p, int threads) {
  const int64_t phases = std::lcm(p.up, p.down), numel = p.n * p.c * p.mid_h * p.mid_w;
  Blocks all{p.n * p.c, 1, 1, columns_of_result(p), rows_of_result(p), 0};
  const int64_t team = std::max<int64_t>(1, std::min<int64_t>(threads, numel / kGrain));
  all.stripe_width = round_up(kStripe, phases / gather_of(p).factor);
  all.stripes = (all.width + all.stripe_width - 1) / all.stripe_width;
  if (team > 1 && all.planes * all.stripes < kBlocksPerThread * team)
    all.blocks = std::max<int64_t>(1, std::min(kBlocksPerThread * team, all.height / kFewestRows));
  if (team == 1) return work<T>(p, all, phases, 0, all.count());
#pragma omp parallel num_threads(team)
  {
    const int64_t t = omp_get_thread_num(), n = omp_get_num_threads();
    work<T>(p, all, phases, all.count() * t / n, all.count() * (t + 1) / n);
  }
}

}  // namespace

void CAGC_LEVEL::filtered_lrelu(const FilteredLrelu &p, int threads) {
  if (p.n * p.c * rows_of_result(p) * columns_of_result(p) == 0) return;
  with_dtype(p.dtype, [&](auto type) { over_threads<typename decltype(type)::type>(p, threads); });
}

}  // namespace cagc
