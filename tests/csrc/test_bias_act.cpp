// bias_act.cu on the emulator against the formula applied element by element in float64: which element meets which
// bias, at what width, in which pass. The formula itself is held against PyTorch by tests/kernels.
#include "cagc/bias_act.h"
#include "check.h"
#include <random>
#include <vector>

using namespace cagc;

namespace {

struct Shape { int64_t numel, step, channels, offset; };

// offset: elements that every tensor starts behind a 16-byte boundary.
const Shape kShapes[] = {{2 * 8 * 16, 16, 8, 0}, {2 * 7 * 15, 15, 7, 0}, {3 * 5 * 24, 1, 24, 0}, {3 * 5 * 77, 1, 77, 0},
                         {2 * 8 * 16, 16, 8, 1}, {9000, 9000, 1, 0}, {1, 1, 1, 0}};

template <class T> double expected(const BiasAct &p, int64_t i) {
  auto at = [](const void *v, int64_t i) { return v ? double(acc_t<T>(static_cast<const T *>(v)[i])) : 0.; };
  const double u = (p.y ? at(p.y, i) : at(p.x, i)) + at(p.b, i / p.step % p.channels);
  const BiasActScalars<double> scalars(p);
  double out = 0;
  with_act(p.act, [&](auto tag) {
    constexpr Act act = decltype(tag)::value;
    const double g = at(p.g, i), h = at(p.h, i);
    if (p.mode == Pass::value) out = bias_act_element<act, Pass::value>(u, g, h, scalars);
    if (p.mode == Pass::gradient) out = bias_act_element<act, Pass::gradient>(u, g, h, scalars);
    if (p.mode == Pass::second_gradient) out = bias_act_element<act, Pass::second_gradient>(u, g, h, scalars);
  });
  return out;
}

template <class T> struct Tensors {
  alignas(16) std::vector<T> x, b, g, h, out;
  explicit Tensors(int64_t n) : x(n), b(n), g(n), h(n), out(n) {
    std::mt19937 bits(1);
    std::normal_distribution<float> normal;
    for (auto *v : {&x, &b, &g, &h})
      for (T &e : *v) e = T(normal(bits));
    std::fill(out.begin(), out.end(), T(NAN));
  }
};

template <class T> void test(DType dtype, const Shape &s, Act act, Pass pass, bool bias, double tolerance) {
  Tensors<T> t(s.numel + s.offset + 8);
  const bool from_output = piecewise_linear(act) && pass == Pass::gradient;
  BiasAct p{};
  (from_output ? p.y : p.x) = t.x.data() + s.offset;
  p.b = bias && !from_output ? t.b.data() : nullptr;
  p.g = pass == Pass::value ? nullptr : t.g.data() + s.offset;
  p.h = pass == Pass::second_gradient ? t.h.data() + s.offset : nullptr;
  p.out = t.out.data() + s.offset;
  p.numel = s.numel, p.step = s.step, p.channels = s.channels;
  p.alpha = 0.2, p.gain = 1.3, p.clamp = -1;
  p.act = act, p.mode = pass, p.dtype = dtype;
  const char *error = bias_act_cuda(p, nullptr);
  CHECK(!error, "%s", error);
  for (int64_t i = 0; i < s.numel; i++) {
    const double got = double(acc_t<T>(t.out[s.offset + i])), want = expected<T>(p, i);
    CHECK(std::abs(got - want) <= tolerance * (1 + std::abs(want)), "element %ld: %g, expected %g", long(i), got, want);
    if (failures > 20) return;
  }
  for (int64_t i = s.numel; i < s.numel + 8; i++)
    CHECK(std::isnan(double(acc_t<T>(t.out[s.offset + i]))), "written behind the end");
}

// Sums over pieces of `chunk` elements, in both arrangements, added up for each channel.
template <class T> void test_sums(DType dtype, const Shape &s, Act act, int64_t chunk, double tolerance) {
  Tensors<T> t(s.numel + s.offset + 8);
  BiasAct p{};
  (piecewise_linear(act) ? p.y : p.x) = t.x.data() + s.offset;
  p.b = piecewise_linear(act) ? nullptr : t.b.data();
  p.g = t.g.data() + s.offset, p.out = t.out.data() + s.offset;
  p.numel = s.numel, p.step = s.step, p.channels = s.channels;
  p.alpha = 0.2, p.gain = 1.3, p.clamp = 1.5;
  p.act = act, p.mode = Pass::gradient, p.dtype = dtype;
  const bool across = s.step == 1 && s.channels > 1;
  p.chunk = across ? chunk / s.channels * s.channels + s.channels : chunk;
  const int64_t run = across ? s.numel : s.step, pieces = (run + p.chunk - 1) / p.chunk;
  std::vector<acc_t<T>> sums(s.numel / run * pieces * (across ? s.channels : 1) + 1, acc_t<T>(NAN));
  p.sums = sums.data();
  const char *error = bias_act_cuda(p, nullptr);
  CHECK(!error, "%s", error);
  std::vector<double> got(s.channels), want(s.channels);
  for (size_t i = 0; i + 1 < sums.size(); i++) got[across ? i % s.channels : i / pieces % s.channels] += sums[i];
  CHECK(std::isnan(double(sums.back())), "a sum behind the end");
  for (int64_t i = 0; i < s.numel; i++) {
    const double e = expected<T>(p, i), out = double(acc_t<T>(t.out[s.offset + i]));
    want[i / s.step % s.channels] += e;
    CHECK(std::abs(out - e) <= tolerance * (1 + std::abs(e)), "element %ld: %g, expected %g", long(i), out, e);
    if (failures > 20) return;
  }
  for (int64_t c = 0; c < s.channels; c++)
    CHECK(std::abs(got[c] - want[c]) <= 1e-5 * (1 + s.numel / s.channels), "channel %ld: %g, expected %g", long(c),
          got[c], want[c]);
}

}  // namespace

int main() {
  emulator::set_multiprocessors(1);
  for (int seed = 0; seed < 3; seed++) {
    emulator::set_seed(seed);
    for (const Shape &s : kShapes)
      for (Act act : {Act::linear, Act::lrelu, Act::swish})
        for (Pass pass : {Pass::value, Pass::gradient, Pass::second_gradient})
          for (bool bias : {false, true}) {
            test<float>(DType::float32, s, act, pass, bias, 1e-6);
            test<double>(DType::float64, s, act, pass, bias, 1e-14);
            test<half_t>(DType::float16, s, act, pass, bias, 1e-3);
            test<bfloat_t>(DType::bfloat16, s, act, pass, bias, 8e-3);
          }
    for (const Shape &s : kShapes)
      for (Act act : {Act::linear, Act::lrelu, Act::swish})
        for (int64_t chunk : {16, 100, 8192}) {
          test_sums<float>(DType::float32, s, act, chunk, 1e-6);
          test_sums<half_t>(DType::float16, s, act, chunk, 1e-3);
        }
  }
  return report("bias_act");
}
