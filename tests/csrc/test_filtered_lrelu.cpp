// filtered_lrelu.cu on the emulator against its definition in float64, one pass over whole images after the other.
#include "cagc/filtered_lrelu.h"
#include "check.h"
#include <random>
#include <vector>

using namespace cagc;

namespace {

struct Case { int64_t n, c, in_h, in_w, up, down, x0, x1, y0, y1, fu_h, fu_w, fd_h, fd_w; bool fu_sep, fd_sep; };

const Case kCases[] = {
    {2, 3, 9, 11, 2, 2, 9, 8, 7, 10, 12, 12, 12, 12, true, true},
    {1, 2, 9, 7, 4, 2, 11, 12, 13, 9, 24, 24, 12, 12, true, true},
    {1, 2, 6, 9, 2, 2, 8, 9, 10, 7, 12, 12, 12, 12, true, false},
    {2, 1, 8, 7, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, false, false},
    {1, 2, 9, 8, 2, 1, -3, 9, 8, -2, 6, 5, 5, 5, false, true},
    {1, 1, 7, 8, 3, 2, 5, 6, 4, 3, 8, 8, 3, 4, true, false},
    {1, 1, 40, 37, 2, 2, 9, 8, 7, 10, 12, 12, 12, 12, true, true},
    {5, 5, 6, 8, 2, 2, 9, 8, 7, 10, 12, 12, 12, 12, true, false}};

using Images = std::vector<double>;

double tap_of(const std::vector<double> &f, bool separable, int64_t h, int64_t w, bool flip, int64_t ky, int64_t kx) {
  if (!flip) ky = h - 1 - ky, kx = w - 1 - kx;
  return separable ? f[ky] * f[kx] : f[ky * w + kx];
}

// visit(middle position, pixel, weight) for each pair of the up-sampling, and of the down-sampling with its output.
template <class F> void spread_pairs(const FilteredLrelu &p, const std::vector<double> &f, F &&visit) {
  for (int64_t y = 0; y < p.mid_h; y++)
    for (int64_t x = 0; x < p.mid_w; x++)
      for (int64_t ky = 0; ky < p.fu_h; ky++)
        for (int64_t kx = 0; kx < p.fu_w; kx++) {
          const int64_t py = y + ky - p.pad_y, px = x + kx - p.pad_x;
          if (py < 0 || px < 0 || py % p.up || px % p.up || py / p.up >= p.in_h || px / p.up >= p.in_w) continue;
          visit(y * p.mid_w + x, py / p.up * p.in_w + px / p.up,
                double(p.up * p.up) * tap_of(f, p.fu_separable, p.fu_h, p.fu_w, p.flip, ky, kx));
        }
}

template <class F> void gather_pairs(const FilteredLrelu &p, const std::vector<double> &f, F &&visit) {
  for (int64_t y = 0; y < p.out_h; y++)
    for (int64_t x = 0; x < p.out_w; x++)
      for (int64_t ky = 0; ky < p.fd_h; ky++)
        for (int64_t kx = 0; kx < p.fd_w; kx++)
          visit((y * p.down + ky) * p.mid_w + x * p.down + kx, y * p.out_w + x,
                tap_of(f, p.fd_separable, p.fd_h, p.fd_w, p.flip, ky, kx));
}

// One plane of the result.
Images expected(const FilteredLrelu &p, const Images &x, const Images &g, const Images &fu, const Images &fd) {
  Images v(p.mid_h * p.mid_w), t(v.size()), a(v.size());
  spread_pairs(p, fu, [&](int64_t m, int64_t i, double w) { v[m] += w * x[i]; });
  if (p.route == Route::tangent) spread_pairs(p, fu, [&](int64_t m, int64_t i, double w) { t[m] += w * g[i]; });
  if (p.route == Route::gradient) gather_pairs(p, fd, [&](int64_t m, int64_t o, double w) { t[m] += w * g[o]; });
  for (size_t m = 0; m < v.size(); m++) {
    const double slope = v[m] > 0 ? p.gain : p.gain * p.slope, act = v[m] * slope;
    const bool clamped = p.clamp >= 0 && std::abs(act) >= p.clamp;
    if (p.route == Route::value) a[m] = clamped ? std::copysign(p.clamp, act) : act;
    else a[m] = clamped ? 0 : t[m] * slope;
  }
  Images out(p.route == Route::gradient ? p.in_h * p.in_w : p.out_h * p.out_w);
  if (p.route == Route::gradient) spread_pairs(p, fu, [&](int64_t m, int64_t i, double w) { out[i] += w * a[m]; });
  else gather_pairs(p, fd, [&](int64_t m, int64_t o, double w) { out[o] += w * a[m]; });
  return out;
}

template <class T> Images wide(const std::vector<T> &v, int64_t from, int64_t h, int64_t w, int64_t stride) {
  Images found;
  for (int64_t i = 0; i < h * w; i++) found.push_back(double(acc_t<T>(v[from + i / w * stride + i % w])));
  return found;
}

// How many elements are wrong. gap: elements between rows of x that no kernel may read.
template <class T> int wrong(DType dtype, const Case &k, Route route, bool flip, int64_t gap, double tolerance) {
  std::mt19937 bits(1);
  std::normal_distribution<float> normal;
  FilteredLrelu p;
  p.n = k.n, p.c = k.c, p.in_h = k.in_h, p.in_w = k.in_w, p.up = k.up, p.down = k.down, p.pad_x = k.x0, p.pad_y = k.y0;
  p.fu_h = k.fu_h, p.fu_w = k.fu_w, p.fd_h = k.fd_h, p.fd_w = k.fd_w;
  p.fu_separable = k.fu_sep, p.fd_separable = k.fd_sep, p.flip = flip, p.route = route, p.dtype = dtype;
  p.mid_h = k.in_h * k.up + k.y0 + k.y1 - k.fu_h + 1, p.mid_w = k.in_w * k.up + k.x0 + k.x1 - k.fu_w + 1;
  p.out_h = (p.mid_h - k.fd_h) / k.down + 1, p.out_w = (p.mid_w - k.fd_w) / k.down + 1;
  p.gain = 1.3, p.clamp = route == Route::value ? 0.9 : -1;  // beside a clamp, rounding decides whether a slope is zero
  p.stride_h = k.in_w + gap, p.stride_c = k.in_h * p.stride_h, p.stride_n = k.c * p.stride_c;
  const int64_t planes = k.n * k.c, result = rows_of_result(p) * columns_of_result(p);
  const int64_t pixels = rows_of_g(p) * columns_of_g(p);
  std::vector<T> x(k.n * p.stride_n, T(NAN)), g(planes * pixels), out(planes * result + 8, T(NAN));
  std::vector<acc_t<T>> fu(k.fu_sep ? k.fu_w : k.fu_h * k.fu_w), fd(k.fd_sep ? k.fd_w : k.fd_h * k.fd_w), b(k.c);
  for (int64_t i = 0; i < int64_t(x.size()); i++)
    if (i % p.stride_h < k.in_w) x[i] = T(normal(bits));
  for (auto &v : g) v = T(normal(bits));
  for (auto *list : {&fu, &fd, &b})
    for (auto &v : *list) v = normal(bits) / 3;
  p.x = x.data(), p.b = b.data(), p.g = route == Route::value ? nullptr : g.data();
  p.fu = fu.data(), p.fd = fd.data(), p.out = out.data();
  const char *error = filtered_lrelu_cuda(p, nullptr);
  CHECK(!error, "%s", error);
  int count = 0;
  for (int64_t plane = 0; plane < planes; plane++) {
    Images here = wide(x, plane * p.stride_c, k.in_h, k.in_w, p.stride_h);
    for (double &v : here) v += b[plane % k.c];
    const Images want = expected(p, here, wide(g, plane * pixels, 1, pixels, 0), Images(fu.begin(), fu.end()),
                                 Images(fd.begin(), fd.end()));
    for (int64_t i = 0; i < result; i++)
      count += !(std::abs(double(acc_t<T>(out[plane * result + i])) - want[i]) <= tolerance * (8 + std::abs(want[i])));
  }
  for (int64_t i = 0; i < 8; i++) count += !std::isnan(double(acc_t<T>(out[planes * result + i])));
  return count;
}

void test_every_case() {
  for (int seed = 0; seed < 3; seed++) {
    emulator::set_seed(seed);
    for (const Case &k : kCases)
      for (Route route : {Route::value, Route::tangent, Route::gradient}) {
        const bool flip = seed == 1;
        int count = wrong<float>(DType::float32, k, route, flip, seed ? 3 : 0, 3e-6);
        if (seed == 0) count += wrong<half_t>(DType::float16, k, route, flip, 2, 1e-3);
        if (seed == 1) count += wrong<double>(DType::float64, k, route, flip, 0, 1e-13);
        if (seed == 2) count += wrong<bfloat_t>(DType::bfloat16, k, route, flip, 1, 8e-3);
        CHECK(count == 0, "case %ld, route %d, seed %d: %d elements are wrong", long(&k - kCases), int(route), seed,
              count);
      }
  }
}

int wrong_in_all() {
  int count = 0;
  for (const Case &k : kCases) count += wrong<float>(DType::float32, k, Route::gradient, false, 0, 3e-6);
  return count;
}

}  // namespace

int main() {
  emulator::set_multiprocessors(1);
  test_every_case();
  check_every_barrier(1, wrong_in_all);
  return report("filtered_lrelu");
}
