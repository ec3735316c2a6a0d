// sparse_channel_conv2d.cu on the emulator against its definition: every output a sum over the chosen inputs in float64.
#include "cagc/sparse_channel_conv2d.h"
#include "check.h"
#include <cmath>
#include <random>
#include <vector>

using namespace cagc;

namespace {

struct Case { int64_t n, i, o, c_in, c_out, in_h, in_w, k, pad, up; bool flip, demodulate, scatter; };

const Case kCases[] = {
    {2, 9, 8, 5, 3, 5, 7, 3, 1, 1, true, true, false}, {1, 40, 150, 18, 67, 9, 9, 3, 1, 1, false, true, true},
    {1, 6, 5, 6, 5, 4, 3, 3, 2, 2, true, true, false}, {2, 4, 4, 3, 1, 6, 5, 1, 0, 1, true, false, false},
    {1, 3, 70, 1, 66, 3, 4, 5, 4, 3, false, false, true}};

std::vector<int64_t> every_other(int64_t count, int64_t full) {
  std::vector<int64_t> found;
  for (int64_t i = 0; i < count; i++) found.push_back(i * full / count);
  return found;
}

// Both of contiguous NCHW: sizes, then strides.
void strides(int64_t (&to)[4], int64_t c, int64_t h, int64_t w) { to[0] = c * h * w, to[1] = h * w, to[2] = w, to[3] = 1; }

struct Data {
  std::vector<double> x, weight, styles;
  std::vector<int64_t> ins, outs;
};

double expected(const SparseChannelConv2d &p, const Data &d, int64_t n, int64_t o, int64_t y, int64_t x) {
  double sum = 0, energy = 0;
  for (int64_t c = 0; c < p.c_in; c++)
    for (int64_t ky = 0; ky < p.k; ky++)
      for (int64_t kx = 0; kx < p.k; kx++) {
        const int64_t at = d.outs[o] * p.weight_stride[0] + d.ins[c] * p.weight_stride[1] + kernel_offset(p, ky, kx);
        const double w = d.weight[at] * d.styles[n * p.c_in + c];
        const int64_t iy = y - p.pad + ky, ix = x - p.pad + kx;
        energy += w * w;
        if (iy < 0 || ix < 0 || iy % p.up || ix % p.up || iy / p.up >= p.in_h || ix / p.up >= p.in_w) continue;
        sum += w * d.x[((n * p.c_in + c) * p.in_h + iy / p.up) * p.in_w + ix / p.up];
      }
  return p.demodulate ? sum / std::sqrt(energy + kDemodulationEps) : sum;
}

// How many elements are wrong.
template <class T, class W> int wrong(DType dtype, DType weight_dtype, const Case &k, double tolerance) {
  std::mt19937 bits(1);
  std::normal_distribution<float> normal;
  std::vector<T> x(k.n * k.c_in * k.in_h * k.in_w);
  std::vector<W> weight(k.o * k.i * k.k * k.k);
  std::vector<acc_t<T>> styles(k.n * k.c_in), factors(k.n * k.c_out, NAN);
  for (auto &v : x) v = T(normal(bits));
  for (auto &v : weight) v = W(normal(bits));
  for (auto &v : styles) v = normal(bits);
  Data d{{}, {}, {styles.begin(), styles.end()}, every_other(k.c_in, k.i), every_other(k.c_out, k.o)};
  for (T v : x) d.x.push_back(double(acc_t<T>(v)));
  for (W v : weight) d.weight.push_back(double(acc_t<W>(v)));
  SparseChannelConv2d p{x.data(), weight.data(), d.ins.data(), d.outs.data(), styles.data(), factors.data(), nullptr,
                        k.n, k.c_in, k.c_out, k.in_h, k.in_w, 0, 0, k.k, k.pad, k.up, {}, {}, {}, k.flip, k.demodulate,
                        k.scatter, dtype, weight_dtype};
  p.out_h = output_size(p, k.in_h), p.out_w = output_size(p, k.in_w);
  const int64_t width = k.scatter ? k.o : k.c_out;
  strides(p.x_stride, k.c_in, k.in_h, k.in_w), strides(p.weight_stride, k.i, k.k, k.k);
  strides(p.out_stride, width, p.out_h, p.out_w);
  std::vector<T> out(k.n * p.out_stride[0] + 8, T(NAN));
  p.out = out.data();
  const char *error = sparse_channel_conv2d_cuda(p, nullptr);
  CHECK(!error, "%s", error);
  int64_t count = 0, untouched = 0;
  for (int64_t n = 0; n < k.n; n++)
    for (int64_t o = 0; o < k.c_out; o++)
      for (int64_t y = 0; y < p.out_h; y++)
        for (int64_t c = 0; c < p.out_w; c++) {
          const int64_t at = n * p.out_stride[0] + output_channel(p, o) * p.out_stride[1] + y * p.out_w + c;
          const double want = expected(p, d, n, o, y, c);
          count += !(std::abs(double(acc_t<T>(out[at])) - want) <= tolerance * (4 + std::abs(want)));
        }
  for (T v : out) untouched += std::isnan(double(acc_t<T>(v)));
  return int(count + std::abs(untouched - 8 - k.n * (width - k.c_out) * p.out_stride[1]));
}

void test_every_case() {
  for (int seed = 0; seed < 3; seed++) {
    emulator::set_seed(seed);
    for (const Case &k : kCases) {
      const int count = wrong<float, float>(DType::float32, DType::float32, k, 4e-6) +
                        wrong<double, double>(DType::float64, DType::float64, k, 1e-13) +
                        wrong<half_t, float>(DType::float16, DType::float32, k, 2e-3) +
                        wrong<bfloat_t, bfloat_t>(DType::bfloat16, DType::bfloat16, k, 1.6e-2);
      CHECK(count == 0, "case %ld, seed %d: %d elements are wrong", long(&k - kCases), seed, count);
    }
  }
}

int wrong_in_all() {
  int count = 0;
  for (const Case &k : kCases) count += wrong<float, float>(DType::float32, DType::float32, k, 4e-6);
  return count;
}

}  // namespace

int main() {
  emulator::set_multiprocessors(1);
  test_every_case();
  check_every_barrier(1, wrong_in_all);
  return report("sparse_channel_conv2d");
}
