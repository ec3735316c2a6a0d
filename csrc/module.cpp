// The only file that knows Python: integers in (data pointers, sizes, a stream), an exception out.
// Anything that has pointers can be bound beside it: nothing below this file includes pybind11 or Python.
#include "cagc/bias_act.h"
#include "cagc/modulated_conv2d.h"
#include "cagc/sparse_channel_conv2d.h"
#include "cagc/synthesis.h"
#include "cagc/upfirdn2d.h"
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <stdexcept>
#include <string>

namespace py = pybind11;
using Pointer = std::uintptr_t;  // Tensor.data_ptr(), 0 where a tensor is absent

namespace {

const void *in(Pointer p) { return reinterpret_cast<const void *>(p); }

// Fake, meta and functional tensors have a data pointer of 0: refuse instead of crashing.
void require(bool present, const char *op, const char *name) {
  if (present) return;
  throw std::invalid_argument(std::string(op) + ": " + name + " is null (a fake, meta or functional tensor?)");
}

cagc::BiasAct bias_act_params(Pointer x, Pointer b, Pointer y, Pointer g, Pointer h, Pointer out, int64_t numel,
                              int64_t step, int64_t channels, double alpha, double gain, double clamp, int act,
                              int pass, int dtype) {
  if (act < 0 || act > static_cast<int>(cagc::Act::swish)) throw std::invalid_argument("bias_act: unknown act code");
  if (pass < 0 || pass > 2) throw std::invalid_argument("bias_act: unknown pass code");
  if (dtype < 0 || dtype > 3) throw std::invalid_argument("bias_act: unknown dtype code");
  if (numel < 0 || step < 1 || channels < 1) throw std::invalid_argument("bias_act: numel, step or channels is off");
  const cagc::BiasAct p{in(x), in(b), in(y), in(g), in(h), reinterpret_cast<void *>(out), numel, step, channels,
                        alpha, gain, clamp, static_cast<cagc::Act>(act), static_cast<cagc::Pass>(pass),
                        static_cast<cagc::DType>(dtype)};
  if (numel == 0) return p;
  const bool reads_input = p.pass != cagc::Pass::slope || p.act != cagc::Act::linear || clamp >= 0;
  require(p.out, "bias_act", "out");
  require(!reads_input || p.x || p.y, "bias_act", "x");
  require(p.pass == cagc::Pass::value || p.g, "bias_act", "g");
  require(p.pass != cagc::Pass::curvature || p.h, "bias_act", "h");
  return p;
}

cagc::BiasAct bias_act_slope_params(Pointer x, Pointer b, Pointer y, Pointer g, Pointer out, int64_t numel,
                                    int64_t step, int64_t channels, double alpha, double gain, double clamp, int act,
                                    int dtype, Pointer sums, int64_t chunk) {
  const int slope = static_cast<int>(cagc::Pass::slope);
  auto p = bias_act_params(x, b, y, g, 0, out, numel, step, channels, alpha, gain, clamp, act, slope, dtype);
  if (chunk < 1 || (step == 1 && chunk % channels)) throw std::invalid_argument("bias_act: chunk is off");
  require(sums || numel == 0, "bias_act", "sums");
  p.sums = reinterpret_cast<void *>(sums), p.chunk = chunk;
  return p;
}

cagc::Upfirdn2d upfirdn2d_params(Pointer x, Pointer f, Pointer out, int64_t n, int64_t c, int64_t inner, int64_t in_h,
                                 int64_t in_w, int64_t out_h, int64_t out_w, int64_t stride_n, int64_t stride_c,
                                 int64_t stride_h, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y,
                                 int64_t pad_x, int64_t pad_y, int64_t f_h, int64_t f_w, bool separable, bool flip,
                                 double gain, int dtype) {
  if (dtype < 0 || dtype > 3) throw std::invalid_argument("upfirdn2d: unknown dtype code");
  for (int64_t size : {n, c, inner, in_h, in_w, out_h, out_w})
    if (size < 0) throw std::invalid_argument("upfirdn2d: a negative size");
  for (int64_t factor : {up_x, up_y, down_x, down_y, f_h, f_w})
    if (factor < 1) throw std::invalid_argument("upfirdn2d: a factor or filter size below 1");
  if (separable && f_h != f_w) throw std::invalid_argument("upfirdn2d: f is a vector, but f_h and f_w differ");
  const cagc::Upfirdn2d p{in(x), in(f), reinterpret_cast<void *>(out), n, c, inner, in_h, in_w, out_h, out_w,
                          stride_n, stride_c, stride_h, up_x, up_y, down_x, down_y, pad_x, pad_y, f_h, f_w,
                          separable, flip, gain, static_cast<cagc::DType>(dtype)};
  if (n * c * inner * out_h * out_w == 0) return p;
  require(p.out, "upfirdn2d", "out");
  require(p.x || in_h * in_w == 0, "upfirdn2d", "x");
  require(p.f || f_h * f_w == 1, "upfirdn2d", "f");
  return p;
}

cagc::SparseChannelConv2d sparse_channel_conv2d_params(
    Pointer x, Pointer weight, Pointer in_channels, Pointer out_channels, Pointer styles, Pointer factors, Pointer out,
    int64_t n, int64_t c_in, int64_t c_out, int64_t in_h, int64_t in_w, int64_t out_h, int64_t out_w, int64_t k,
    int64_t pad, int64_t up, int64_t x0, int64_t x1, int64_t x2, int64_t x3, int64_t w0, int64_t w1, int64_t w2,
    int64_t w3, int64_t o0, int64_t o1, int64_t o2, int64_t o3, bool flip, bool demodulate, bool scatter, int dtype,
    int weight_dtype) {
  const char *op = "sparse_channel_conv2d";
  if (dtype < 0 || dtype > 3) throw std::invalid_argument("sparse_channel_conv2d: unknown dtype code");
  if (weight_dtype != dtype && (weight_dtype != 0 || dtype < 2))
    throw std::invalid_argument("sparse_channel_conv2d: weight is neither of x's dtype nor float32 beside half");
  for (int64_t size : {n, c_in, c_out, in_h, in_w, k, up})
    if (size < 1) throw std::invalid_argument("sparse_channel_conv2d: a size below 1");
  auto index = [](Pointer q) { return static_cast<const int64_t *>(in(q)); };
  auto result = [](Pointer q) { return reinterpret_cast<void *>(q); };
  const cagc::SparseChannelConv2d p{
      in(x), in(weight), index(in_channels), index(out_channels), in(styles), result(factors), result(out), n, c_in,
      c_out, in_h, in_w, out_h, out_w, k, pad, up, {x0, x1, x2, x3}, {w0, w1, w2, w3}, {o0, o1, o2, o3}, flip,
      demodulate, scatter, static_cast<cagc::DType>(dtype), static_cast<cagc::DType>(weight_dtype)};
  if (pad < 0 || out_h != cagc::output_size(p, in_h) || out_w != cagc::output_size(p, in_w) || out_h < 1 || out_w < 1)
    throw std::invalid_argument("sparse_channel_conv2d: pad, out_h or out_w is off");
  require(p.x, op, "x");
  require(p.weight, op, "weight");
  require(p.in_channels, op, "in_channels");
  require(p.out_channels, op, "out_channels");
  require(p.styles || !demodulate, op, "styles");
  require(p.factors || !demodulate, op, "factors");
  require(p.out, op, "out");
  return p;
}

cagc::Epilogue epilogue_params(Pointer x, Pointer g, Pointer f, Pointer d, Pointer noise, Pointer b, Pointer s,
                               Pointer out, Pointer sums, Pointer dnoise, int64_t n, int64_t c, int64_t in_h,
                               int64_t in_w, int64_t out_h, int64_t out_w, int64_t pad_x, int64_t pad_y,
                               int64_t noise_step, int64_t chunk, bool channels_last, double alpha, double gain,
                               double clamp, int act, int dtype) {
  if (act < 0 || !cagc::piecewise_linear(static_cast<cagc::Act>(act)))
    throw std::invalid_argument("modulated_conv2d: act code is not one of linear, relu, lrelu");
  if (dtype < 0 || dtype > 3) throw std::invalid_argument("modulated_conv2d: unknown dtype code");
  for (int64_t size : {n, c, in_h, in_w, out_h, out_w})
    if (size < 0) throw std::invalid_argument("modulated_conv2d: a negative size");
  if (!f && (in_h != out_h || in_w != out_w)) throw std::invalid_argument("modulated_conv2d: sizes differ without f");
  if (chunk < 1) throw std::invalid_argument("modulated_conv2d: chunk is below 1");
  if (f && g) throw std::invalid_argument("modulated_conv2d: no gradient through f");
  const auto writable = [](Pointer p) { return reinterpret_cast<void *>(p); };
  const cagc::Epilogue p{in(x), in(g), in(f), in(d), in(noise), in(b), in(s), writable(out), writable(sums),
                         writable(dnoise), n, c, in_h, in_w, out_h, out_w, pad_x, pad_y, noise_step, chunk,
                         channels_last, alpha, gain, clamp, static_cast<cagc::Act>(act),
                         static_cast<cagc::DType>(dtype)};
  if (n * c * out_h * out_w == 0) return p;
  require(p.out, "modulated_conv2d", "out");
  require(p.x || in_h * in_w == 0, "modulated_conv2d", "x");
  require(!p.g || p.sums, "modulated_conv2d", "sums");
  require(!p.g || p.dnoise, "modulated_conv2d", "dnoise");
  return p;
}

// A function of an op's fields and one more argument, `threads` or a stream, as Python calls it.
template <class Last, class Params, class... Fields, class Run> auto bind(Params (*pack)(Fields...), Run run) {
  return [pack, run](Fields... fields, Last last) { run(pack(fields...), last); };
}

template <class Params> auto on_cpu(void (*run)(const Params &, int)) {
  return [run](const Params &p, int threads) {
    py::gil_scoped_release release;
    run(p, threads);
  };
}

#ifdef CAGC_CUDA_ARCHS
template <class Params> auto on_cuda(const char *(*run)(const Params &, void *)) {
  return [run](const Params &p, Pointer stream) {
    if (const char *error = run(p, reinterpret_cast<void *>(stream))) throw std::runtime_error(error);
  };
}
#endif

const float *floats(Pointer p) { return reinterpret_cast<const float *>(p); }

const cagc::Kernels &kernels_of(const std::string &instructions) {
  const cagc::Kernels *kernels = cagc::find_kernels(instructions.c_str());
  if (!kernels) throw std::invalid_argument("synthesis: no kernels for instructions '" + instructions + "' here");
  return *kernels;
}

// Fields of cagc::StyledConv in their order, noise_strength apart.
cagc::StyledConv styled_conv(const std::vector<Pointer> &f, float noise_strength, int64_t lanes) {
  if (f.size() != 20 || f[0] > 3) throw std::invalid_argument("synthesis: not the fields of a styled convolution");
  for (int i : {10, 11, 12, 13, 14}) require(f[i], "synthesis", "a tensor of a layer");
  for (int i : {16, 17, 18}) require(!f[15] || f[i], "synthesis", "a tensor of toRGB");
  std::vector<int64_t> n(f.begin(), f.begin() + 10);
  const bool strips = n[3] != 1;
  if (n[6] % cagc::kLanes || n[7] % cagc::kLanes || n[4] < 1 || n[5] < 1 || n[4] > n[6] || n[5] > n[7])
    throw std::invalid_argument("synthesis: channels are not padded");
  if (strips ? n[3] != lanes || n[2] % (4 * lanes * n[1]) || f[0] % 2 == 0 : n[4] != n[6] || n[5] != n[7])
    throw std::invalid_argument("synthesis: a layer cannot be in strips, or its channels are not padded");
  require(!strips || n[1] == 1 || f[19], "synthesis", "the weights of an edge");
  return {static_cast<cagc::Algorithm>(f[0]), n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9],
          floats(f[10]), floats(f[11]), floats(f[12]), floats(f[13]), floats(f[14]), floats(f[15]), floats(f[16]),
          floats(f[17]), floats(f[18]), floats(f[19]), noise_strength};
}

std::unique_ptr<cagc::Synthesis> synthesis(const std::vector<std::vector<Pointer>> &layers,
                                           const std::vector<float> &noise_strengths,
                                           const std::vector<std::pair<Pointer, Pointer>> &mapping, int64_t features,
                                           Pointer constant, int64_t style_dim, const std::vector<float> &fir,
                                           float clamp, const std::string &instructions, int64_t batch, int threads) {
  if (layers.empty() || layers.size() != noise_strengths.size() || fir.size() != 4 || batch < 1 || threads < 1)
    throw std::invalid_argument("synthesis: layers, noise strengths, fir, batch or threads is off");
  const cagc::Kernels &kernels = kernels_of(instructions);
  std::vector<cagc::StyledConv> convs;
  for (size_t i = 0; i < layers.size(); i++)
    convs.push_back(styled_conv(layers[i], noise_strengths[i], cagc::lanes_of(kernels)));
  for (size_t i = 0; i < convs.size(); i++) {
    const cagc::StyledConv *next = i + 1 < convs.size() ? &convs[i + 1] : nullptr;
    if (convs[i].strips == 1) continue;
    if (i == 0 || (next ? next->strips == 1 || (convs[i].up == 2 && next->up == 2) : convs[i].up == 2))
      throw std::invalid_argument("synthesis: a layer in strips lacks the neighbours that it needs");
  }
  cagc::Mapping map{{}, features};
  for (const auto &[weight, bias] : mapping) map.layers.push_back({floats(weight), floats(bias)});
  require(constant, "synthesis", "constant");
  return std::make_unique<cagc::Synthesis>(std::move(convs), std::move(map), floats(constant), style_dim, fir.data(),
                                           clamp, kernels, batch, threads);
}

void run_synthesis(const cagc::Synthesis &s, Pointer ws, int64_t w_sample, int64_t w_layer,
                   const std::vector<Pointer> &noise, const std::vector<int64_t> &noise_sample, Pointer image,
                   Pointer workspace, Pointer seconds) {
  require(ws, "synthesis", "ws");
  require(image, "synthesis", "image");
  require(workspace, "synthesis", "workspace");
  cagc::SynthesisCall call{floats(ws), w_sample, w_layer, {}, noise_sample, reinterpret_cast<float *>(image),
                           reinterpret_cast<float *>(workspace), reinterpret_cast<double *>(seconds)};
  for (Pointer p : noise) call.noise.push_back(floats(p));
  if (noise.size() != s.layers() || noise_sample.size() != s.layers())
    throw std::invalid_argument("synthesis: one noise pointer and stride for each convolution");
  py::gil_scoped_release release;
  s.run(call);
}

void bind_synthesis(py::module_ &m) {
  m.def("instruction_sets", cagc::instruction_sets);
  m.def("lanes", [](const std::string &instructions) { return cagc::lanes_of(kernels_of(instructions)); });
  const auto pack = [&](const char *name, auto function) {
    m.def(name, [=](const std::string &instructions, Pointer matrix, int64_t k, int64_t columns, Pointer packed) {
      require(matrix && packed, name, "a tensor");
      function(kernels_of(instructions), floats(matrix), k, columns, reinterpret_cast<float *>(packed));
    });
  };
  pack("pack_matrix", cagc::pack_matrix);
  pack("pack_strips", cagc::pack_strips);
  m.def("prefer_huge_pages", [](Pointer memory, size_t bytes) {
    cagc::prefer_huge_pages(reinterpret_cast<void *>(memory), bytes);
  });
  py::class_<cagc::Synthesis>(m, "Synthesis")
      .def(py::init(&synthesis))
      .def("workspace", &cagc::Synthesis::workspace)
      .def("run", &run_synthesis)
      .def("map", [](const cagc::Synthesis &s, Pointer z, Pointer w, Pointer workspace) {
        require(z && w && workspace, "synthesis", "z, w or workspace");
        py::gil_scoped_release release;
        s.map(floats(z), reinterpret_cast<float *>(w), reinterpret_cast<float *>(workspace));
      });
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels on raw pointers. Call them through cagc_kernels.native.";
  m.def("bias_act_cpu", bind<int>(bias_act_params, on_cpu(cagc::bias_act_cpu)));
  m.def("bias_act_slope_cpu", bind<int>(bias_act_slope_params, on_cpu(cagc::bias_act_cpu)));
  m.def("sparse_channel_conv2d_cpu", bind<int>(sparse_channel_conv2d_params, on_cpu(cagc::sparse_channel_conv2d_cpu)));
  m.def("modulated_conv2d_cpu", bind<int>(epilogue_params, on_cpu(cagc::modulated_conv2d_cpu)));
  m.def("upfirdn2d_cpu", bind<int>(upfirdn2d_params, on_cpu(cagc::upfirdn2d_cpu)));
  bind_synthesis(m);
#ifdef CAGC_CUDA_ARCHS
  m.attr("cuda_archs") = CAGC_CUDA_ARCHS;
  m.def("bias_act_cuda", bind<Pointer>(bias_act_params, on_cuda(cagc::bias_act_cuda)));
  m.def("bias_act_slope_cuda", bind<Pointer>(bias_act_slope_params, on_cuda(cagc::bias_act_cuda)));
  m.def("sparse_channel_conv2d_cuda",
        bind<Pointer>(sparse_channel_conv2d_params, on_cuda(cagc::sparse_channel_conv2d_cuda)));
  m.def("modulated_conv2d_cuda", bind<Pointer>(epilogue_params, on_cuda(cagc::modulated_conv2d_cuda)));
  m.def("upfirdn2d_cuda", bind<Pointer>(upfirdn2d_params, on_cuda(cagc::upfirdn2d_cuda)));
#else
  m.attr("cuda_archs") = py::none();
#endif
}
