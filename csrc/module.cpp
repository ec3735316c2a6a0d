// The Python module. It passes structs of integers, numbers and addresses by name and turns errors into exceptions.
// Only the files named module* include pybind11 or Python, so other languages can be bound to the same headers.
#include "cagc/bias_act.h"
#include "cagc/epilogue.h"
#include "cagc/filtered_lrelu.h"
#include "cagc/packing.h"
#include "cagc/sparse_channel_conv2d.h"
#include "cagc/synthesis.h"
#include "cagc/upfirdn2d.h"
#include "module_checks.h"
#include "module_fields.h"
#include <algorithm>
#include <pybind11/stl.h>


namespace {

void known(cagc::DType dtype, const char *op) {
  require(dtype >= cagc::DType::float32 && dtype <= cagc::DType::bfloat16, op, "unknown dtype code");
}

void check(const cagc::BiasAct &p) {
  const char *op = "bias_act";
  known(p.dtype, op);
  require(p.act >= cagc::Act::linear && p.act <= cagc::Act::swish, op, "unknown act code");
  require(p.mode >= cagc::Pass::value && p.mode <= cagc::Pass::second_gradient, op, "unknown mode code");
  require(p.numel >= 0 && p.step >= 1 && p.channels >= 1, op, "numel, step or channels is off");
  if (p.numel == 0) return;
  const bool reads_input = p.mode != cagc::Pass::gradient || p.act != cagc::Act::linear || p.clamp >= 0;
  present(p.out, op, "out");
  present(!reads_input || p.x || p.y, op, "x");
  present(p.mode == cagc::Pass::value || p.g, op, "g");
  present(p.mode != cagc::Pass::second_gradient || p.h, op, "h");
  if (!p.sums) return;
  require(p.mode == cagc::Pass::gradient, op, "sums without the gradient pass");
  require(p.chunk >= 1 && (p.step > 1 || p.chunk % p.channels == 0), op, "chunk is off");
}

void check(const cagc::Upfirdn2d &p) {
  const char *op = "upfirdn2d";
  known(p.dtype, op);
  for (int64_t size : {p.n, p.c, p.inner, p.in_h, p.in_w, p.out_h, p.out_w})
    require(size >= 0, op, "a negative size");
  for (int64_t factor : {p.up_x, p.up_y, p.down_x, p.down_y, p.f_h, p.f_w})
    require(factor >= 1, op, "a factor or filter size below 1");
  require(!p.separable || p.f_h == p.f_w, op, "f is a vector, but f_h and f_w differ");
  if (p.n * p.c * p.inner * p.out_h * p.out_w == 0) return;
  present(p.out, op, "out");
  present(p.x || p.in_h * p.in_w == 0, op, "x");
  present(p.f || p.f_h * p.f_w == 1, op, "f");
}

void check(const cagc::SparseChannelConv2d &p) {
  const char *op = "sparse_channel_conv2d";
  known(p.dtype, op);
  require(p.weight_dtype == p.dtype || (p.weight_dtype == cagc::DType::float32 && p.dtype >= cagc::DType::float16),
          op, "weight is neither of x's dtype nor float32 beside half");
  for (int64_t size : {p.n, p.c_in, p.c_out, p.in_h, p.in_w, p.k, p.up}) require(size >= 1, op, "a size below 1");
  require(p.pad >= 0 && p.out_h >= 1 && p.out_h == cagc::output_size(p, p.in_h) && p.out_w >= 1 &&
              p.out_w == cagc::output_size(p, p.in_w),
          op, "pad, out_h or out_w is off");
  present(p.x, op, "x");
  present(p.weight, op, "weight");
  present(p.in_channels, op, "in_channels");
  present(p.out_channels, op, "out_channels");
  present(p.styles || !p.demodulate, op, "styles");
  present(p.factors || !p.demodulate, op, "factors");
  present(p.out, op, "out");
}

void check(const cagc::Epilogue &p) {
  const char *op = "epilogue";
  known(p.dtype, op);
  require(cagc::piecewise_linear(p.act), op, "act code is not one of linear, relu, lrelu");
  for (int64_t size : {p.n, p.c, p.in_h, p.in_w, p.out_h, p.out_w}) require(size >= 0, op, "a negative size");
  require(p.f || (p.in_h == p.out_h && p.in_w == p.out_w), op, "sizes differ without f");
  require(p.chunk >= 1, op, "chunk is below 1");
  require(!p.f || !p.g, op, "no gradient through f");
  if (p.n * p.c * p.out_h * p.out_w == 0) return;
  present(p.out, op, "out");
  present(p.x || p.in_h * p.in_w == 0, op, "x");
  present(!p.g || p.sums, op, "sums");
  present(!p.g || p.dnoise, op, "dnoise");
}

void check(const cagc::FilteredLrelu &p) {
  const char *op = "filtered_lrelu";
  known(p.dtype, op);
  require(p.route >= cagc::Route::value && p.route <= cagc::Route::gradient, op, "unknown route code");
  for (int64_t size : {p.n, p.c, p.in_h, p.in_w, p.out_h, p.out_w}) require(size >= 0, op, "a negative size");
  for (int64_t size : {p.up, p.down, p.fu_h, p.fu_w, p.fd_h, p.fd_w, p.mid_h, p.mid_w})
    require(size >= 1, op, "a factor, filter size or size of the middle grid below 1");
  require((!p.fu_separable || p.fu_h == p.fu_w) && (!p.fd_separable || p.fd_h == p.fd_w), op,
          "a filter is a vector, but its height and width differ");
  require((p.mid_h - p.fd_h) / p.down + 1 == p.out_h && (p.mid_w - p.fd_w) / p.down + 1 == p.out_w, op,
          "out_h or out_w is off");
  if (p.n * p.c * cagc::rows_of_result(p) * cagc::columns_of_result(p) == 0) return;
  present(p.out, op, "out");
  present(p.x || p.in_h * p.in_w == 0, op, "x");
  present(p.g || p.route == cagc::Route::value, op, "g");
  present(p.fu || p.fu_h * p.fu_w == 1, op, "fu");
  present(p.fd || p.fd_h * p.fd_w == 1, op, "fd");
}

// Defines m.<name>_cpu(params, threads) and, in CUDA builds, m.<name>_cuda(params, stream).
template <class Params>
void bind_op(py::module_ &m, const std::string &name, void (*on_cpu)(const Params &, int),
             [[maybe_unused]] std::common_type_t<const char *(*)(const Params &, void *)> on_cuda) {
  m.def((name + "_cpu").c_str(), [on_cpu](const Params &p, int threads) {
    check(p);
    py::gil_scoped_release release;
    on_cpu(p, threads);
  });
#ifdef CAGC_CUDA_ARCHS
  m.def((name + "_cuda").c_str(), [on_cuda](const Params &p, Pointer stream) {
    check(p);
    if (const char *error = on_cuda(p, reinterpret_cast<void *>(stream))) throw std::runtime_error(error);
  });
#endif
}

#ifdef CAGC_CUDA_ARCHS
#define CAGC_ON_CUDA(function) function
#else
#define CAGC_ON_CUDA(function) nullptr
#endif

void bind_ops(py::module_ &m) {
#define F(member) CAGC_FIELD(cagc::BiasAct, member)
  cagc::bind_fields<cagc::BiasAct>(m, "BiasAct", {
      F(x), F(b), F(y), F(g), F(h), F(out), F(numel), F(step), F(channels), F(alpha), F(gain), F(clamp), F(act),
      F(mode), F(dtype), F(sums), F(chunk)});
#undef F
#define F(member) CAGC_FIELD(cagc::Upfirdn2d, member)
  cagc::bind_fields<cagc::Upfirdn2d>(m, "Upfirdn2d", {
      F(x), F(f), F(out), F(n), F(c), F(inner), F(in_h), F(in_w), F(out_h), F(out_w), F(stride_n), F(stride_c),
      F(stride_h), F(up_x), F(up_y), F(down_x), F(down_y), F(pad_x), F(pad_y), F(f_h), F(f_w), F(separable), F(flip),
      F(gain), F(dtype)});
#undef F
#define F(member) CAGC_FIELD(cagc::SparseChannelConv2d, member)
  cagc::bind_fields<cagc::SparseChannelConv2d>(m, "SparseChannelConv2d", {
      F(x), F(weight), F(in_channels), F(out_channels), F(styles), F(factors), F(out), F(n), F(c_in), F(c_out),
      F(in_h), F(in_w), F(out_h), F(out_w), F(k), F(pad), F(up), F(x_stride), F(weight_stride), F(out_stride),
      F(flip), F(demodulate), F(scatter), F(dtype), F(weight_dtype)});
#undef F
#define F(member) CAGC_FIELD(cagc::Epilogue, member)
  cagc::bind_fields<cagc::Epilogue>(m, "Epilogue", {
      F(x), F(g), F(f), F(d), F(noise), F(b), F(s), F(out), F(sums), F(dnoise), F(n), F(c), F(in_h), F(in_w),
      F(out_h), F(out_w), F(pad_x), F(pad_y), F(noise_step), F(chunk), F(channels_last), F(alpha), F(gain), F(clamp),
      F(act), F(dtype)});
#undef F
#define F(member) CAGC_FIELD(cagc::FilteredLrelu, member)
  cagc::bind_fields<cagc::FilteredLrelu>(m, "FilteredLrelu", {
      F(x), F(b), F(g), F(fu), F(fd), F(out), F(n), F(c), F(in_h), F(in_w), F(mid_h), F(mid_w), F(out_h), F(out_w),
      F(stride_n), F(stride_c), F(stride_h), F(up), F(down), F(pad_x), F(pad_y), F(fu_h), F(fu_w), F(fd_h), F(fd_w),
      F(fu_separable), F(fd_separable), F(flip), F(gain), F(slope), F(clamp), F(route), F(dtype)});
#undef F
  bind_op(m, "bias_act", cagc::bias_act_cpu, CAGC_ON_CUDA(cagc::bias_act_cuda));
  bind_op(m, "upfirdn2d", cagc::upfirdn2d_cpu, CAGC_ON_CUDA(cagc::upfirdn2d_cuda));
  bind_op(m, "sparse_channel_conv2d", cagc::sparse_channel_conv2d_cpu, CAGC_ON_CUDA(cagc::sparse_channel_conv2d_cuda));
  bind_op(m, "epilogue", cagc::epilogue_cpu, CAGC_ON_CUDA(cagc::epilogue_cuda));
  bind_op(m, "filtered_lrelu", cagc::filtered_lrelu_cpu, CAGC_ON_CUDA(cagc::filtered_lrelu_cuda));
}

void check(const cagc::ConvWeights &c) {
  present(c.weight && c.affine && c.affine_bias && c.bias, "synthesis", "a tensor of a layer");
  present(!c.rgb || (c.rgb_weight && c.rgb_affine && c.rgb_affine_bias && c.rgb_bias), "synthesis",
          "a tensor of toRGB");
}

void check(cagc::Storage storage) {
  require(storage >= cagc::Storage::float32 && storage <= cagc::Storage::int8, "synthesis", "unknown storage code");
}

void check(const std::vector<std::pair<Pointer, Pointer>> &mapping) {
  for (const auto &[weight, bias] : mapping) present(weight && bias, "synthesis", "a tensor of the mapping network");
}

// The same weights again, stored otherwise.
void store(cagc::PackedNetwork &packed, const std::vector<cagc::ConvWeights> &convs,
           const std::vector<std::pair<Pointer, Pointer>> &mapping, int64_t mapping_storage, int64_t styles_storage) {
  const auto of_mapping = static_cast<cagc::Storage>(mapping_storage);
  const auto styles = static_cast<cagc::Storage>(styles_storage);
  check(of_mapping), check(styles), check(mapping);
  const auto &packed_convs = packed.network().convs;
  require(convs.size() == packed_convs.size(), "synthesis", "another number of convolutions");
  for (const cagc::ConvWeights &c : convs) check(c);
  py::gil_scoped_release release;
  packed.store(of_mapping, styles);
  for (size_t i = 0; i < convs.size(); i++) packed.add_affine(i, convs[i]);
  for (const auto &[weight, bias] : mapping) packed.add_mapping_layer(doubles(weight), doubles(bias));
}

std::unique_ptr<cagc::PackedNetwork> packed_network(const std::vector<cagc::ConvWeights> &convs,
                                                    const std::vector<std::pair<Pointer, Pointer>> &mapping,
                                                    Pointer constant, int64_t style_dim,
                                                    const std::vector<double> &fir, float clamp,
                                                    const std::string &instructions,
                                                    const cagc::PackingOptions &options) {
  const char *wrong = cagc::why_not_a_network(convs, style_dim);
  require(!wrong, "synthesis", wrong ? wrong : "");
  require(fir.size() == 4 && options.batch >= 1, "synthesis", "fir or batch is off");
  check(options.mapping), check(options.styles);
  for (const cagc::ConvWeights &c : convs) check(c);
  check(mapping);
  present(constant, "synthesis", "constant");
  py::gil_scoped_release release;
  auto packed = std::make_unique<cagc::PackedNetwork>(kernels_of(instructions), convs, style_dim, options);
  for (const cagc::ConvWeights &c : convs) packed->add_conv(c);
  for (const auto &[weight, bias] : mapping) packed->add_mapping_layer(doubles(weight), doubles(bias));
  packed->set_constant(doubles(constant)), packed->set_filter(fir.data()), packed->set_clamp(clamp);
  return packed;
}

std::unique_ptr<cagc::Synthesis> synthesis(const cagc::PackedNetwork &packed, int64_t batch, int threads) {
  require(batch >= 1 && threads >= 1, "synthesis", "batch or threads is below 1");
  return std::make_unique<cagc::Synthesis>(packed.network(), packed.kernels(), batch, threads);
}

// noise: address and stride between samples, for each convolution.
cagc::SynthesisCall call_of(const cagc::Synthesis &s, const std::vector<std::pair<Pointer, int64_t>> &noise,
                            Pointer image, Pointer workspace) {
  present(image, "synthesis", "image");
  present(workspace, "synthesis", "workspace");
  require(noise.size() == s.layers(), "synthesis", "one noise pointer and stride for each convolution");
  cagc::SynthesisCall call;
  for (const auto &[data, sample] : noise) call.noise.push_back({floats(data), sample});
  call.image = writable(image), call.workspace = writable(workspace);
  return call;
}

void run_synthesis(const cagc::Synthesis &s, Pointer ws, int64_t w_sample, int64_t w_layer,
                   const std::vector<std::pair<Pointer, int64_t>> &noise, Pointer image, Pointer workspace,
                   Pointer seconds, size_t layers) {
  present(ws, "synthesis", "ws");
  require(layers <= s.layers(), "synthesis", "more layers than there are");
  cagc::SynthesisCall call = call_of(s, noise, image, workspace);
  call.ws = floats(ws), call.w_sample = w_sample, call.w_layer = w_layer, call.layers = layers;
  call.seconds = reinterpret_cast<double *>(seconds);
  py::gil_scoped_release release;
  s.run(call);
}

void generate(const cagc::Synthesis &s, Pointer z, float psi, Pointer w_avg, int64_t cutoff,
              const std::vector<std::pair<Pointer, int64_t>> &noise, Pointer image, Pointer workspace) {
  present(z, "synthesis", "z");
  present(w_avg || psi == 1, "synthesis", "w_avg");
  cagc::SynthesisCall call = call_of(s, noise, image, workspace);
  call.z = floats(z), call.psi = psi, call.w_avg = floats(w_avg), call.cutoff = cutoff;
  py::gil_scoped_release release;
  s.run(call);
}

void bind_packing(py::module_ &m) {
#define F(member) CAGC_FIELD(cagc::ConvWeights, member)
  cagc::bind_fields<cagc::ConvWeights>(m, "ConvWeights", {
      F(resolution), F(up), CAGC_FIELD_AS("in_channels", cagc::ConvWeights, in),
      CAGC_FIELD_AS("out_channels", cagc::ConvWeights, out), F(w), F(rgb_w), F(rgb), F(noise_strength), F(weight),
      F(affine), F(affine_bias), F(bias), F(rgb_weight), F(rgb_affine), F(rgb_affine_bias), F(rgb_bias)});
#undef F
#define F(member) CAGC_FIELD(cagc::PackingOptions, member)
  cagc::bind_fields<cagc::PackingOptions>(m, "PackingOptions", {
      F(batch), F(algorithms), F(strip_bytes), F(read_cost), F(mapping), F(styles)});
#undef F
  m.def("points", [](int64_t algorithm, int64_t size) {
    return cagc::points(static_cast<cagc::Algorithm>(algorithm), size);
  });
  py::class_<cagc::PackedNetwork>(m, "PackedNetwork")
      .def(py::init(&packed_network), py::kw_only(), py::arg("convs"), py::arg("mapping"), py::arg("constant"),
           py::arg("style_dim"), py::arg("fir"), py::arg("clamp"), py::arg("instructions"), py::arg("options"))
      .def("store", &store, py::kw_only(), py::arg("convs"), py::arg("mapping"), py::arg("mapping_storage"),
           py::arg("styles_storage"))
      .def_property_readonly("bytes", &cagc::PackedNetwork::bytes)
      .def_property_readonly("dense_bytes", &cagc::PackedNetwork::dense_bytes)
      .def_property_readonly("features",
                             [](const cagc::PackedNetwork &packed) { return packed.network().mapping.features; })
      .def_property_readonly("layers", [](const cagc::PackedNetwork &packed) { return packed.network().convs; });
}

void bind_synthesis(py::module_ &m) {
#define F(member) CAGC_FIELD(cagc::StyledConv, member)
  cagc::bind_fields<cagc::StyledConv>(m, "StyledConv", {
      F(algorithm), F(up), F(resolution), F(strips), CAGC_FIELD_AS("in_channels", cagc::StyledConv, in),
      CAGC_FIELD_AS("out_channels", cagc::StyledConv, out), F(in_padded), F(out_padded), F(w), F(rgb_w), F(weight),
      F(energy), F(bias), F(rgb_weight), F(rgb_bias), F(edge_weight), F(noise_strength)});
#undef F
  m.def("instruction_sets", cagc::instruction_sets);
  m.def("use_instructions", [](const std::string &name) {
    if (!cagc::use_instructions(name.c_str()))
      require(false, "use_instructions", ("no kernels for instructions '" + name + "' here").c_str());
  });
  m.def("lanes", [](const std::string &instructions) { return cagc::lanes_of(kernels_of(instructions)); });
  m.def("prefer_huge_pages", [](Pointer memory, size_t bytes) {
    cagc::prefer_huge_pages(reinterpret_cast<void *>(memory), bytes);
  });
  py::class_<cagc::Synthesis>(m, "Synthesis")
      .def(py::init(&synthesis), py::keep_alive<1, 2>(), py::kw_only(), py::arg("packed"), py::arg("batch"),
           py::arg("threads"))
      .def("workspace", &cagc::Synthesis::workspace)
      .def("run", &run_synthesis, py::kw_only(), py::arg("ws"), py::arg("w_sample"), py::arg("w_layer"),
           py::arg("noise"), py::arg("image"), py::arg("workspace"), py::arg("seconds") = 0, py::arg("layers") = 0)
      .def("generate", &generate, py::arg("z"), py::arg("psi"), py::arg("w_avg"), py::arg("cutoff"), py::arg("noise"),
           py::arg("image"), py::arg("workspace"))
      .def(
          "map",
          [](const cagc::Synthesis &s, Pointer z, Pointer w, Pointer workspace) {
            present(z && w && workspace, "synthesis", "z, w or workspace");
            py::gil_scoped_release release;
            s.map(floats(z), writable(w), writable(workspace));
          },
          py::kw_only(), py::arg("z"), py::arg("w"), py::arg("workspace"));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels on raw pointers. Call them through cagc_kernels.native.";
  bind_ops(m);
  cagc::bind_tensors(m);
  bind_packing(m);
  bind_synthesis(m);
  cagc::bind_sngan(m);
  cagc::bind_planar_conv(m);
#ifdef CAGC_CUDA_ARCHS
  m.attr("cuda_archs") = CAGC_CUDA_ARCHS;
#else
  m.attr("cuda_archs") = py::none();
#endif
}
