// epilogue.cu on the emulator against its formula in float64: values with and without the filter, gradients,
// and that each barrier is needed.
#include "cagc/epilogue.h"
#include "check.h"
#include <random>
#include <vector>

using namespace cagc;

namespace {

enum Kind { value, filtered, gradient };
struct Case { Kind kind; int64_t n, c, out_h, out_w, pad_x, pad_y, chunk; bool last, shared_noise; };

const Case kCases[] = {
    {value, 2, 8, 6, 4, 0, 0, 1, true, false},     {value, 2, 7, 5, 3, 0, 0, 1, true, true},
    {value, 2, 3, 4, 8, 0, 0, 1, false, false},    {value, 2, 5, 3, 5, 0, 0, 1, false, true},
    {filtered, 2, 8, 18, 6, 1, 1, 1, true, false}, {filtered, 1, 3, 34, 5, 2, 0, 1, true, true},
    {filtered, 2, 3, 17, 9, 1, 1, 1, false, true}, {filtered, 1, 2, 5, 70, 0, 3, 1, false, false},
    {gradient, 2, 40, 7, 5, 0, 0, 9, true, false}, {gradient, 9, 9, 6, 6, 0, 0, 100, true, true},
    {gradient, 2, 3, 20, 30, 0, 0, 300, false, true}, {gradient, 3, 17, 4, 5, 0, 0, 7, false, false}};

struct Tensors {
  std::vector<double> x, g, f, d, noise, b, s;
};

int64_t input_h(const Case &k) { return k.kind == filtered ? k.out_h + 1 : k.out_h; }
int64_t input_w(const Case &k) { return k.kind == filtered ? k.out_w + 1 : k.out_w; }

int64_t index(const Case &k, int64_t n, int64_t c, int64_t y, int64_t x, int64_t h, int64_t w) {
  return k.last ? ((n * h + y) * w + x) * k.c + c : ((n * k.c + c) * h + y) * w + x;
}

double u_of(const Case &k, const Tensors &t, int64_t n, int64_t c, int64_t y, int64_t x) {
  const int64_t h = input_h(k), w = input_w(k);
  if (k.kind != filtered) return t.x[index(k, n, c, y, x, h, w)];
  double sum = 0;
  for (int i = 0; i < 16; i++) {
    const int64_t gy = y + i / 4 - k.pad_y, gx = x + i % 4 - k.pad_x;
    if (gy >= 0 && gy < h && gx >= 0 && gx < w) sum += t.f[i] * t.x[index(k, n, c, gy, gx, h, w)];
  }
  return sum;
}

// How many elements are wrong.
template <class T> int wrong(DType dtype, const Case &k, double tolerance) {
  using A = acc_t<T>;
  std::mt19937 bits(1);
  std::normal_distribution<float> normal;
  const int64_t numel = k.n * k.c * k.out_h * k.out_w, pixels = k.out_h * k.out_w;
  const int64_t inputs = k.n * k.c * input_h(k) * input_w(k), noises = (k.shared_noise ? 1 : k.n) * pixels;
  const int64_t chunks = (pixels + k.chunk - 1) / k.chunk;
  auto draw = [&](auto &v, auto &wide) {
    for (auto &e : v) e = typename std::decay_t<decltype(v)>::value_type(normal(bits));
    for (auto &e : v) wide.push_back(double(acc_t<T>(e)));
  };
  std::vector<T> x(inputs), g(numel), out(numel + 8, T(NAN));
  std::vector<A> f(16), d(k.n * k.c), noise(noises), b(k.c), s(k.n * k.c);
  std::vector<A> sums(3 * k.n * chunks * k.c, A(NAN)), dnoise(k.n * pixels, A(NAN));
  Tensors t;
  draw(x, t.x), draw(g, t.g), draw(f, t.f), draw(d, t.d), draw(noise, t.noise), draw(b, t.b), draw(s, t.s);
  const Epilogue p{x.data(), k.kind == gradient ? g.data() : nullptr, k.kind == filtered ? f.data() : nullptr, d.data(),
                   noise.data(), b.data(), s.data(), out.data(), sums.data(), dnoise.data(), k.n, k.c, input_h(k),
                   input_w(k), k.out_h, k.out_w, k.pad_x, k.pad_y, k.shared_noise ? 0 : pixels, k.chunk, k.last, 0.2,
                   1.3, 1.5, Act::lrelu, dtype};
  const char *error = epilogue_cuda(p, nullptr);
  CHECK(!error, "%s", error);
  int count = 0;
  auto compare = [&](double got, double want, double slack) {
    count += !(std::abs(got - want) <= slack * tolerance * (4 + std::abs(want)));
  };
  std::vector<double> wide_sums(sums.size()), wide_noise(dnoise.size());
  const EpilogueScalars<double> scalars(p);
  for (int64_t n = 0; n < k.n; n++)
    for (int64_t c = 0; c < k.c; c++)
      for (int64_t i = 0; i < pixels; i++) {
        const int64_t at = index(k, n, c, i / k.out_w, i % k.out_w, k.out_h, k.out_w);
        const double u = u_of(k, t, n, c, i / k.out_w, i % k.out_w), factor = t.d[n * k.c + c];
        const double v = u * factor + t.noise[k.shared_noise ? i : n * pixels + i] + t.b[c];
        const double a = epilogue_value<Act::lrelu>(v, scalars);
        if (k.kind != gradient) {
          compare(double(A(out[at])), a * t.s[n * k.c + c], 1);
          continue;
        }
        const double gv = epilogue_gradient<Act::lrelu>(v, a, t.g[at] * t.s[n * k.c + c], scalars);
        compare(double(A(out[at])), gv * factor, 1);
        double *sum = &wide_sums[(n * chunks + i / k.chunk) * k.c + c];
        const int64_t step = k.n * chunks * k.c;
        sum[0] += gv * u, sum[step] += gv, sum[2 * step] += t.g[at] * a;
        wide_noise[n * pixels + i] += gv;
      }
  for (size_t i = 0; k.kind == gradient && i < sums.size(); i++) compare(double(sums[i]), wide_sums[i], 20);
  for (size_t i = 0; k.kind == gradient && i < dnoise.size(); i++) compare(double(dnoise[i]), wide_noise[i], 20);
  for (int64_t i = numel; i < numel + 8; i++) count += !std::isnan(double(A(out[i])));
  return count;
}

void test_every_case() {
  for (int seed = 0; seed < 3; seed++) {
    emulator::set_seed(seed);
    for (const Case &k : kCases) {
      const int count = wrong<float>(DType::float32, k, 2e-6) + wrong<double>(DType::float64, k, 1e-14) +
                        wrong<half_t>(DType::float16, k, 1e-3) + wrong<bfloat_t>(DType::bfloat16, k, 8e-3);
      CHECK(count == 0, "case %ld, seed %d: %d elements are wrong", long(&k - kCases), seed, count);
    }
  }
}

int wrong_in_all() {
  int count = 0;
  for (const Case &k : kCases) count += wrong<float>(DType::float32, k, 2e-6);
  return count;
}

}  // namespace

int main() {
  emulator::set_multiprocessors(1);
  test_every_case();
  check_every_barrier(3, wrong_in_all);
  return report("epilogue");
}
