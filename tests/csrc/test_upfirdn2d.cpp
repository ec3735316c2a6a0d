// upfirdn2d.cu on the emulator against its definition: the up-sampled image with its zeros, filtered in float64.
#include "cagc/upfirdn2d.h"
#include "check.h"
#include <random>
#include <vector>

using namespace cagc;

namespace {

struct Case { int64_t n, c, inner, in_h, in_w, up_x, up_y, down_x, down_y, x0, x1, y0, y1, f_h, f_w; bool separable; };

const Case kCases[] = {
    {2, 3, 1, 9, 13, 2, 2, 1, 1, 2, 1, 2, 1, 4, 4, true},   {2, 3, 1, 9, 13, 1, 1, 2, 2, 1, 1, 1, 1, 4, 4, true},
    {2, 3, 1, 9, 13, 1, 1, 1, 1, 2, 1, 2, 1, 4, 4, false},  {1, 2, 1, 40, 70, 2, 2, 1, 1, 2, 1, 2, 1, 4, 4, false},
    {1, 2, 1, 70, 67, 1, 1, 2, 2, 1, 1, 1, 1, 4, 4, false}, {1, 1, 1, 66, 65, 1, 1, 1, 1, 1, 1, 1, 1, 4, 4, true},
    {2, 1, 5, 9, 7, 2, 2, 1, 1, 2, 1, 2, 1, 4, 4, false},   {2, 1, 16, 12, 10, 1, 1, 2, 2, 1, 1, 1, 1, 4, 4, true},
    {1, 1, 39, 6, 35, 1, 1, 1, 1, 2, 1, 2, 1, 4, 4, true},  {2, 2, 1, 7, 9, 2, 3, 1, 2, 3, 2, 1, 4, 3, 5, false},
    {1, 2, 1, 7, 9, 1, 2, 2, 1, -1, 2, 3, -2, 3, 5, false}, {1, 2, 1, 5, 6, 3, 2, 2, 3, 9, 9, 8, 8, 12, 12, true},
    {1, 2, 1, 8, 8, 1, 1, 1, 1, -1, -2, 0, -1, 1, 1, false},
    // More tiles than blocks: a block uses its shared memory again.
    {5, 8, 1, 5, 6, 2, 2, 1, 1, 2, 1, 2, 1, 4, 4, false},   {5, 8, 1, 6, 6, 1, 1, 1, 1, 6, 5, 5, 6, 12, 12, true},
    {40, 1, 9, 6, 6, 1, 1, 2, 2, 1, 1, 1, 1, 4, 4, false}};

double pixel(const Upfirdn2d &p, const std::vector<double> &x, int64_t n, int64_t c, int64_t y, int64_t col,
             int64_t i) {
  if (y < 0 || col < 0 || y % p.up_y || col % p.up_x) return 0;
  y /= p.up_y, col /= p.up_x;
  if (y >= p.in_h || col >= p.in_w) return 0;
  return x[n * p.stride_n + c * p.stride_c + y * p.stride_h + col * p.inner + i];
}

double expected(const Upfirdn2d &p, const std::vector<double> &x, const std::vector<double> &f, int64_t index) {
  const int64_t i = index % p.inner, ox = index / p.inner % p.out_w, oy = index / p.inner / p.out_w % p.out_h;
  const int64_t plane = index / p.inner / p.out_w / p.out_h, c = plane % p.c, n = plane / p.c;
  double sum = 0;
  for (int64_t ky = 0; ky < p.f_h; ky++)
    for (int64_t kx = 0; kx < p.f_w; kx++) {
      const int64_t fy = p.flip ? ky : p.f_h - 1 - ky, fx = p.flip ? kx : p.f_w - 1 - kx;
      const double tap = p.separable ? f[fy] * f[fx] : f[fy * p.f_w + fx];
      sum += tap * pixel(p, x, n, c, oy * p.down_y - p.pad_y + ky, ox * p.down_x - p.pad_x + kx, i);
    }
  return p.gain * sum;
}

// How many elements are wrong. gap: elements between rows that no kernel may read.
template <class T> int wrong(DType dtype, const Case &k, bool flip, int64_t gap, double tolerance) {
  const int64_t stride_h = k.in_w * k.inner + gap, stride_c = k.in_h * stride_h, stride_n = k.c * stride_c;
  const int64_t out_h = (k.in_h * k.up_y + k.y0 + k.y1 - k.f_h) / k.down_y + 1;
  const int64_t out_w = (k.in_w * k.up_x + k.x0 + k.x1 - k.f_w) / k.down_x + 1;
  const int64_t taps = k.separable ? k.f_w : k.f_h * k.f_w, numel = k.n * k.c * out_h * out_w * k.inner;
  std::mt19937 bits(1);
  std::normal_distribution<float> normal;
  std::vector<T> x(k.n * stride_n, T(NAN)), out(numel + 8, T(NAN));
  std::vector<acc_t<T>> f(taps);
  for (int64_t i = 0; i < int64_t(x.size()); i++)
    if (i % stride_h < stride_h - gap) x[i] = T(normal(bits));
  for (auto &tap : f) tap = normal(bits);
  const Upfirdn2d p{x.data(), f.data(), out.data(), k.n, k.c, k.inner, k.in_h, k.in_w, out_h, out_w, stride_n, stride_c,
                    stride_h, k.up_x, k.up_y, k.down_x, k.down_y, k.x0, k.y0, k.f_h, k.f_w, k.separable, flip, 1.7,
                    dtype};
  const char *error = upfirdn2d_cuda(p, nullptr);
  CHECK(!error, "%s", error);
  std::vector<double> wide(x.size());
  for (size_t i = 0; i < x.size(); i++) wide[i] = double(acc_t<T>(x[i]));
  const std::vector<double> wide_taps(f.begin(), f.end());
  int count = 0;
  for (int64_t i = 0; i < numel; i++) {
    const double got = double(acc_t<T>(out[i])), want = expected(p, wide, wide_taps, i);
    count += !(std::abs(got - want) <= tolerance * (4 + std::abs(want)));
  }
  for (int64_t i = numel; i < numel + 8; i++) count += !std::isnan(double(acc_t<T>(out[i])));
  return count;
}

void test_every_case() {
  for (int seed = 0; seed < 3; seed++) {
    emulator::set_seed(seed);
    const bool flip = seed == 1;
    const int64_t gap = seed ? 3 : 0;
    for (const Case &k : kCases) {
      const int count = wrong<float>(DType::float32, k, flip, gap, 2e-6) +
                        wrong<double>(DType::float64, k, flip, gap, 1e-14) +
                        wrong<half_t>(DType::float16, k, flip, gap, 1e-3) +
                        wrong<bfloat_t>(DType::bfloat16, k, flip, gap, 8e-3);
      CHECK(count == 0, "case %ld, seed %d: %d elements are wrong", long(&k - kCases), seed, count);
    }
  }
}

int wrong_in_all() {
  int count = 0;
  for (const Case &k : kCases) count += wrong<float>(DType::float32, k, false, 0, 2e-6);
  return count;
}

}  // namespace

int main() {
  emulator::set_multiprocessors(1);
  test_every_case();
  check_every_barrier(1, wrong_in_all);
  return report("upfirdn2d");
}
