// The part of the Python module for layers and generators with frozen weights other than StyleGAN2's.
#include "cagc/fingerprint.h"
#include "cagc/planar_conv.h"
#include "cagc/sngan.h"
#include "module_checks.h"
#include "module_fields.h"
#include <pybind11/stl.h>

namespace {

std::unique_ptr<cagc::ResidualNetwork> residual_network(const std::vector<cagc::ResidualConv> &convs, int64_t z_dim,
                                                        int64_t width, Pointer projection, Pointer projection_bias,
                                                        Pointer scale, Pointer shift, const std::string &instructions,
                                                        int64_t batch) {
  cagc::ResidualGenerator g;
  g.convs = convs, g.z_dim = z_dim, g.width = width, g.projection = doubles(projection);
  g.projection_bias = doubles(projection_bias), g.scale = doubles(scale), g.shift = doubles(shift);
  const char *wrong = cagc::why_not_residual(g);
  require(!wrong && batch >= 1, "sngan", wrong ? wrong : "batch is below 1");
  const cagc::Kernels &kernels = kernels_of(instructions);
  py::gil_scoped_release release;
  return std::make_unique<cagc::ResidualNetwork>(kernels, *cagc::find_residual_kernels(instructions.c_str()), g, batch);
}

}  // namespace

void cagc::bind_sngan(py::module_ &m) {
#define F(member) CAGC_FIELD(cagc::ResidualConv, member)
  cagc::bind_fields<cagc::ResidualConv>(m, "ResidualConv", {
      F(resolution), CAGC_FIELD_AS("in_channels", cagc::ResidualConv, in),
      CAGC_FIELD_AS("out_channels", cagc::ResidualConv, out), F(shortcut_in), F(weight), F(bias), F(shortcut), F(scale),
      F(shift)});
#undef F
  py::class_<cagc::ResidualNetwork>(m, "ResidualNetwork")
      .def(py::init(&residual_network), py::kw_only(), py::arg("convs"), py::arg("z_dim"), py::arg("width"),
           py::arg("projection"), py::arg("projection_bias"), py::arg("scale"), py::arg("shift"),
           py::arg("instructions"), py::arg("batch"))
      .def_property_readonly("bytes", &cagc::ResidualNetwork::bytes)
      .def_property_readonly("layers", &cagc::ResidualNetwork::convs);
  py::class_<cagc::ResidualSynthesis>(m, "ResidualSynthesis")
      .def(py::init([](const cagc::ResidualNetwork &network, int64_t batch, int threads) {
             require(batch >= 1 && threads >= 1, "sngan", "batch or threads is below 1");
             return std::make_unique<cagc::ResidualSynthesis>(network, batch, threads);
           }),
           py::keep_alive<1, 2>(), py::kw_only(), py::arg("network"), py::arg("batch"), py::arg("threads"))
      .def_property_readonly("bytes", &cagc::ResidualSynthesis::bytes)
      .def(
          "run",
          [](cagc::ResidualSynthesis &s, Pointer z, Pointer image, Pointer seconds) {
            present(z && image, "sngan", "z or image");
            py::gil_scoped_release release;
            s.run(floats(z), writable(image), reinterpret_cast<double *>(seconds));
          },
          py::arg("z"), py::arg("image"), py::arg("seconds") = 0);
}

namespace {

std::unique_ptr<cagc::PlanarConv> planar_conv(Pointer weight, int64_t in, int64_t out, int64_t up,
                                              const std::string &instructions) {
  const char *op = "planar_conv";
  present(weight, op, "weight");
  require(in >= 1 && out >= 1 && in <= 1 << 16 && out <= 1 << 16, op, "channels: expected 1 to 65536");
  require(up == 1 || up == 2, op, "up: expected 1 or 2");
  const cagc::Kernels &kernels = kernels_of(instructions);
  py::gil_scoped_release release;
  return std::make_unique<cagc::PlanarConv>(kernels, *cagc::find_planar_kernels(instructions.c_str()), doubles(weight),
                                            in, out, up);
}

cagc::PlanarCall planar_call(int64_t n, int64_t h, int64_t w, int64_t padding) {
  require(n >= 1 && padding >= 0 && h + 2 * padding > 2 && w + 2 * padding > 2, "planar_conv", "a size is off");
  cagc::PlanarCall call;
  call.n = n, call.h = h, call.w = w, call.padding = padding;
  return call;
}

}  // namespace

void cagc::bind_planar_conv(py::module_ &m) {
  using Conv = cagc::PlanarConv;
  m.def("fingerprint", [](Pointer values, int64_t count, int threads) {
    require(count >= 0 && threads >= 1, "fingerprint", "count or threads is off");
    present(values || !count, "fingerprint", "values");
    py::gil_scoped_release release;
    return cagc::fingerprint(floats(values), count, threads);
  }, py::kw_only(), py::arg("values"), py::arg("count"), py::arg("threads"));
  py::class_<Conv>(m, "PlanarConv")
      .def(py::init(&planar_conv), py::kw_only(), py::arg("weight"), py::arg("in_channels"), py::arg("out_channels"),
           py::arg("up"), py::arg("instructions"))
      .def_property_readonly("bytes", &Conv::bytes)
      .def("multiplications", [](const Conv &conv, int64_t n, int64_t h, int64_t w, int64_t padding) {
            return conv.multiplications(planar_call(n, h, w, padding));
          }, py::kw_only(), py::arg("n"), py::arg("h"), py::arg("w"), py::arg("padding"))
      .def("workspace", [](const Conv &conv, int64_t n, int64_t h, int64_t w, int64_t padding, int threads) {
            require(threads >= 1, "planar_conv", "threads is below 1");
            return conv.workspace(planar_call(n, h, w, padding), threads);
          }, py::kw_only(), py::arg("n"), py::arg("h"), py::arg("w"), py::arg("padding"), py::arg("threads"))
      .def("run", [](const Conv &conv, Pointer x, Pointer scale, Pointer demod, Pointer y, Pointer workspace, int64_t n,
                     int64_t h, int64_t w, int64_t padding, int threads) {
            cagc::PlanarCall call = planar_call(n, h, w, padding);
            require(conv.up() == 1 || padding == 1, "planar_conv", "padding: expected 1");
            require(threads >= 1, "planar_conv", "threads is below 1");
            present(x && y && workspace, "planar_conv", "x, y or workspace");
            call.x = floats(x), call.scale = floats(scale), call.demod = floats(demod);
            call.y = writable(y), call.workspace = writable(workspace);
            py::gil_scoped_release release;
            conv.run(call, threads);
          }, py::kw_only(), py::arg("x"), py::arg("scale"), py::arg("demod"), py::arg("y"), py::arg("workspace"),
          py::arg("n"), py::arg("h"), py::arg("w"), py::arg("padding"), py::arg("threads"));
}
