// The ops on tensors of the CPU as they usually are, by one call from Python each. A function returns None for all
// other arguments, having done nothing: Python then makes the copies that a kernel needs, or says what is wrong.
#include "module_tensors.h"
#include "cagc/bias_act.h"
#include "cagc/sparse_channel_conv2d.h"
#include "cagc/upfirdn2d.h"
#include "module_checks.h"
#include "module_fields.h"
#include <algorithm>
#include <cmath>

namespace cagc {
namespace {

PyObject *interned(const char *name) { return PyUnicode_InternFromString(name); }

py::object attribute(PyObject *of, PyObject *name) {
  return py::reinterpret_steal<py::object>(PyObject_GetAttr(of, name));
}

// Copies a tuple of at most `most` integers and returns their number, or -1 if it is none.
int64_t copy_integers(PyObject *from, int64_t *to, int64_t most) {
  if (!from || !PyTuple_Check(from) || PyTuple_GET_SIZE(from) > most) return -1;
  const Py_ssize_t count = PyTuple_GET_SIZE(from);
  for (Py_ssize_t i = 0; i < count; i++) {
    to[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(from, i));
    if (to[i] == -1 && PyErr_Occurred()) return -1;
  }
  return count;
}

// What is read of PyTorch itself, once.
struct Torch {
  PyObject *module = PyImport_ImportModule("torch");
  PyObject *tensor = PyObject_GetAttrString(module, "Tensor"), *strided = PyObject_GetAttrString(module, "strided");
  PyObject *parameter = py::module_::import("torch.nn").attr("Parameter").cast<py::object>().release().ptr();
  PyObject *dtypes[4] = {PyObject_GetAttrString(module, "float32"), PyObject_GetAttrString(module, "float64"),
                         PyObject_GetAttrString(module, "float16"), PyObject_GetAttrString(module, "bfloat16")};
};

const Torch &torch() {
  static const Torch found;
  return found;
}

bool is(PyObject *of, PyObject *name, PyObject *value) { return attribute(of, name).ptr() == value; }

bool read_attributes(PyObject *from, bool graph, Tensor &to) {
  static PyObject *const is_cpu = interned("is_cpu"), *const layout = interned("layout");
  static PyObject *const shape = interned("shape"), *const is_nested = interned("is_nested");
  static PyObject *const is_neg = interned("is_neg");
  static PyObject *const needed = interned("requires_grad"), *const dtype = interned("dtype");
  static PyObject *const stride = interned("stride");
  const auto *type = reinterpret_cast<PyObject *>(Py_TYPE(from));
  if ((type != torch().tensor && type != torch().parameter) || !is(from, is_cpu, Py_True)) return false;
  if (!is(from, layout, torch().strided) || !is(from, is_nested, Py_False)) return false;
  if (graph && !is(from, needed, Py_False)) return false;
  if (py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(from, is_neg)).ptr() != Py_False) return false;
  to.object = from;
  const py::object found = attribute(from, dtype);
  for (int i = 0; i < 4; i++)
    if (found.ptr() == torch().dtypes[i]) to.is_float = true, to.dtype = static_cast<DType>(i);
  to.ndim = copy_integers(attribute(from, shape).ptr(), to.shape, Tensor::kMost);
  const auto strides = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(from, stride));
  if (to.ndim < 0 || copy_integers(strides.ptr(), to.stride, Tensor::kMost) != to.ndim) return false;
  to.data = address_of(from);
  return (to.data || to.numel() == 0) && !PyErr_Occurred();  // zeros that have no memory have no address
}

}  // namespace

bool Tensor::read(PyObject *from, bool graph) {
  const bool right = read_attributes(from, graph, *this);
  if (!right) PyErr_Clear();
  return right;
}

int64_t Tensor::numel() const {
  int64_t elements = 1;
  for (int64_t i = 0; i < ndim; i++) elements *= shape[i];
  return elements;
}

bool Tensor::is_dense() const {
  const int64_t elements = numel();
  for (int64_t next = 1, i = 0; next < elements; next *= shape[i]) {
    for (i = 0; i < ndim && (shape[i] == 1 || stride[i] != next); i++) {
    }
    if (i == ndim) return false;
  }
  return true;
}

bool Tensor::is_contiguous() const {
  int64_t next = 1;
  for (int64_t i = ndim - 1; i >= 0; next *= shape[i--])
    if (shape[i] != 1 && stride[i] != next) return false;
  return true;
}

namespace {

PyObject *none() { return py::none().release().ptr(); }

// Calls `allocate`, of cagc_kernels/layout.py.
template <class... Sizes> py::object allocated(PyObject *allocate, const Tensor &like, Sizes... sizes) {
  return py::handle(allocate)(py::handle(like.object), sizes...);
}

// A number as the checks in Python take it: a finite float or an integer. Returns false for every other object.
bool read(PyObject *from, double &to) {
  if (!PyFloat_CheckExact(from) && !PyLong_CheckExact(from)) return false;
  to = PyFloat_AsDouble(from);
  if (PyErr_Occurred()) return PyErr_Clear(), false;
  return std::isfinite(to);
}

// An integer of which no size overflows.
bool read(PyObject *from, int64_t &to) {
  if (!PyLong_CheckExact(from)) return false;
  int overflow;
  to = PyLong_AsLongLongAndOverflow(from, &overflow);
  return !overflow && to > -(int64_t(1) << 31) && to < int64_t(1) << 31;
}

bool read(PyObject *from, bool &to) { return to = from == Py_True, to || from == Py_False; }

// One integer, or a tuple or list of 2 or of `most`; repeated to `most`: (x, x), (x, x, y, y). False for other objects.
bool read(PyObject *from, int64_t *to, Py_ssize_t most) {
  if (PyLong_CheckExact(from)) {
    if (!read(from, to[0])) return false;
    return std::fill(to + 1, to + most, to[0]), true;
  }
  if (!PyTuple_CheckExact(from) && !PyList_CheckExact(from)) return false;
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(from);
  if (count != 2 && count != most) return false;
  for (Py_ssize_t i = 0; i < most; i++)
    if (!read(PySequence_Fast_GET_ITEM(from, i * count / most), to[i])) return false;
  return true;
}

// Whether no address overflows, with the limit of addressable() in cagc_kernels/ops/checks.py.
bool addressable(double planes, int64_t height, int64_t width) {
  return planes * double(height) * double(width) <= 0x1p60;
}

struct BiasActCall {
  PyObject *x = nullptr, *b = nullptr, *dim = nullptr, *act = nullptr, *alpha = nullptr, *gain = nullptr;
  PyObject *clamp = nullptr, *activations = nullptr, *allocate = nullptr;
  bool graph = false;
  int64_t threads = 1;
};

// Reads the activation and its numbers; None is its own default, of `activations`: {name: (code, alpha, gain)}.
bool read_options(const BiasActCall &call, BiasAct &p) {
  PyObject *known = PyUnicode_CheckExact(call.act) ? PyDict_GetItemWithError(call.activations, call.act) : nullptr;
  int64_t code;
  if (!known || !read(PyTuple_GET_ITEM(known, 0), code)) return false;
  PyObject *alpha = call.alpha == Py_None ? PyTuple_GET_ITEM(known, 1) : call.alpha;
  PyObject *gain = call.gain == Py_None ? PyTuple_GET_ITEM(known, 2) : call.gain;
  p.act = static_cast<Act>(code);
  if (!read(alpha, p.alpha) || !read(gain, p.gain)) return false;
  if (call.clamp != Py_None && (!read(call.clamp, p.clamp) || p.clamp < 0)) return false;
  // The kernels derive gradients from the sign of the output.
  return !piecewise_linear(p.act) || (p.gain > 0 && !(p.act == Act::lrelu && p.alpha < 0));
}

PyObject *run(const BiasActCall &call) {
  Tensor x, b;
  BiasAct p;
  int64_t dim;
  if (!x.read(call.x, call.graph) || !x.is_float || !x.is_dense() || !read_options(call, p)) return none();
  p.numel = p.step = x.numel(), p.dtype = x.dtype;
  if (p.numel == 0 || !read(call.dim, dim)) return none();
  if (call.b != Py_None) {
    if (!b.read(call.b, call.graph) || !b.is_float || b.dtype != x.dtype || b.ndim != 1) return none();
    if (dim < -x.ndim || dim >= x.ndim || !b.is_contiguous()) return none();
    dim += dim < 0 ? x.ndim : 0;
    if (b.shape[0] != x.shape[dim]) return none();
    if (x.shape[dim] > 1) p.step = x.stride[dim], p.channels = x.shape[dim];
  }
  const py::object out = allocated(call.allocate, x);
  p.x = x.data, p.b = b.data, p.out = address_of(out.ptr());
  {
    py::gil_scoped_release release;
    bias_act_cpu(p, static_cast<int>(call.threads));
  }
  return out.inc_ref().ptr();
}

struct Upfirdn2dCall {
  PyObject *x = nullptr, *f = nullptr, *up = nullptr, *down = nullptr, *padding = nullptr, *flip_filter = nullptr;
  PyObject *gain = nullptr, *allocate = nullptr;
  bool graph = false;
  int64_t threads = 1;
};

// Reads all but the images. `after` is the padding after the last column and row.
bool read_options(const Upfirdn2dCall &call, DType dtype, Upfirdn2d &p, int64_t *after) {
  int64_t up[2], down[2], padding[4];
  if (!read(call.up, up, 2) || !read(call.down, down, 2) || !read(call.padding, padding, 4)) return false;
  if (!read(call.flip_filter, p.flip) || !read(call.gain, p.gain)) return false;
  p.up_x = up[0], p.up_y = up[1], p.down_x = down[0], p.down_y = down[1];
  if (std::min({p.up_x, p.up_y, p.down_x, p.down_y}) < 1) return false;
  p.pad_x = padding[0], p.pad_y = padding[2], after[0] = padding[1], after[1] = padding[3];
  if (call.f == Py_None) return true;
  Tensor f;
  if (!f.read(call.f, call.graph) || !f.is_float || f.dtype != accumulator(dtype) || !f.is_contiguous()) return false;
  if ((f.ndim != 1 && f.ndim != 2) || f.numel() == 0) return false;
  p.f = f.data, p.f_h = f.shape[0], p.f_w = f.shape[f.ndim - 1], p.separable = f.ndim == 1;
  return true;
}

PyObject *run(const Upfirdn2dCall &call) {
  Tensor x;
  Upfirdn2d p;
  int64_t after[2];
  if (!x.read(call.x, call.graph) || !x.is_float || x.ndim != 4 || x.numel() == 0) return none();
  const bool last = x.is_channels_last();
  if (x.stride[3] != (last ? x.shape[1] : 1) || !read_options(call, x.dtype, p, after)) return none();
  p.n = x.shape[0], p.c = last ? 1 : x.shape[1], p.inner = last ? x.shape[1] : 1;
  p.in_h = x.shape[2], p.in_w = x.shape[3], p.dtype = x.dtype;
  p.stride_n = x.stride[0], p.stride_c = last ? 0 : x.stride[1], p.stride_h = x.stride[2];
  const int64_t height = p.in_h * p.up_y + p.pad_y + after[1], width = p.in_w * p.up_x + p.pad_x + after[0];
  if (height < p.f_h || width < p.f_w || !addressable(double(p.n * x.shape[1]), height, width)) return none();
  p.out_h = (height - p.f_h) / p.down_y + 1, p.out_w = (width - p.f_w) / p.down_x + 1;
  const py::object out = allocated(call.allocate, x, p.out_h, p.out_w);
  p.x = x.data, p.out = address_of(out.ptr());
  {
    py::gil_scoped_release release;
    upfirdn2d_cpu(p, static_cast<int>(call.threads));
  }
  return out.inc_ref().ptr();
}

// in_channels and out_channels are checked: int64, ascending, and below the sizes of the weight.
struct SparseChannelCall {
  PyObject *x = nullptr, *weight = nullptr, *in_channels = nullptr, *out_channels = nullptr, *styles = nullptr;
  PyObject *demodulate = nullptr, *padding = nullptr, *flip_weight = nullptr, *allocate = nullptr;
  bool graph = false;
  int64_t threads = 1;
};

// Whether a tensor beside one of `dtype` has that dtype, or float32 beside half precision.
bool fits(const Tensor &t, DType dtype) { return t.is_float && (t.dtype == dtype || t.dtype == accumulator(dtype)); }

bool read_options(const SparseChannelCall &call, SparseChannelConv2d &p) {
  int64_t padding = p.k / 2;
  if (call.padding != Py_None && (!read(call.padding, padding) || padding < 0)) return false;
  p.pad = padding;
  return read(call.demodulate, p.demodulate) && read(call.flip_weight, p.flip);
}

PyObject *run(const SparseChannelCall &call) {
  Tensor x, weight, in, out, styles, y;
  if (!x.read(call.x, call.graph) || !x.is_float || x.ndim != 4 || x.numel() == 0) return none();
  if (!weight.read(call.weight, call.graph) || weight.ndim != 4 || weight.numel() == 0) return none();
  if (!fits(weight, x.dtype) || weight.shape[2] != weight.shape[3]) return none();
  if (!in.read(call.in_channels, false) || !in.is_contiguous() || in.shape[0] != x.shape[1]) return none();
  if (!out.read(call.out_channels, false) || !out.is_contiguous()) return none();
  const bool modulated = call.styles != Py_None;
  if (modulated) {
    if (!styles.read(call.styles, call.graph)) return none();
    if (!styles.is_float || styles.dtype != accumulator(x.dtype)) return none();
    if (styles.ndim != 2 || styles.shape[0] != x.shape[0] || styles.shape[1] != x.shape[1]) return none();
    if (!styles.is_contiguous()) return none();
  }
  SparseChannelConv2d p;
  p.n = x.shape[0], p.c_in = x.shape[1], p.in_h = x.shape[2], p.in_w = x.shape[3], p.c_out = out.shape[0];
  p.k = weight.shape[3];
  if (!read_options(call, p)) return none();
  p.out_h = output_size(p, p.in_h), p.out_w = output_size(p, p.in_w);
  const double channels = double(std::max(weight.shape[0], weight.shape[1]));
  if (p.out_h < 1 || p.out_w < 1 || !addressable(double(p.n) * channels, p.in_h + 2 * p.pad, p.in_w + 2 * p.pad))
    return none();
  const py::object result = allocated(call.allocate, x, p.out_h, p.out_w, p.c_out);
  if (!y.read(result.ptr(), false)) return none();
  p.x = x.data, p.weight = weight.data, p.styles = styles.data, p.out = y.data;
  p.in_channels = static_cast<int64_t *>(in.data), p.out_channels = static_cast<int64_t *>(out.data);
  std::copy(x.stride, x.stride + 4, p.x_stride), std::copy(weight.stride, weight.stride + 4, p.weight_stride);
  std::copy(y.stride, y.stride + 4, p.out_stride);
  p.demodulate = p.demodulate && modulated, p.dtype = x.dtype, p.weight_dtype = weight.dtype;
  {
    py::gil_scoped_release release;
    sparse_channel_conv2d_cpu(p, static_cast<int>(call.threads));
  }
  return result.inc_ref().ptr();
}

// A function of the module whose arguments are the fields of `Call`, by name.
template <class Call> PyObject *entry(PyObject *, PyObject *const *values, Py_ssize_t count, PyObject *names) noexcept {
  return guarded([&] {
    if (count) throw py::type_error(std::string(Fields<Call>::type) + " takes arguments by name alone");
    return run(Fields<Call>::named(values, names));
  });
}

template <class Call> void bind(py::module_ &m, const char *name, std::vector<Field> fields) {
  Fields<Call>::all = std::move(fields), Fields<Call>::type = name;
  static PyMethodDef method{name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&entry<Call>)),
                            METH_FASTCALL | METH_KEYWORDS, nullptr};
  m.add_object(name, py::reinterpret_steal<py::object>(PyCFunction_New(&method, nullptr)));
}

}  // namespace

void bind_tensors(py::module_ &m) {
#define F(member) CAGC_FIELD(BiasActCall, member)
  bind<BiasActCall>(m, "bias_act_of_tensors", {
      F(x), F(b), F(dim), F(act), F(alpha), F(gain), F(clamp), F(activations), F(graph), F(allocate), F(threads)});
#undef F
#define F(member) CAGC_FIELD(Upfirdn2dCall, member)
  bind<Upfirdn2dCall>(m, "upfirdn2d_of_tensors", {
      F(x), F(f), F(up), F(down), F(padding), F(flip_filter), F(gain), F(graph), F(allocate), F(threads)});
#undef F
#define F(member) CAGC_FIELD(SparseChannelCall, member)
  bind<SparseChannelCall>(m, "sparse_channel_conv2d_of_tensors", {
      F(x), F(weight), F(in_channels), F(out_channels), F(styles), F(demodulate), F(padding), F(flip_weight), F(graph),
      F(allocate), F(threads)});
#undef F
}

}  // namespace cagc
