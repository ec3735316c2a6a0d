// Tensors of PyTorch as kernels see them. They are read by the attributes of the Python objects, so that the module
// needs no header of PyTorch and runs with every version of it.
#pragma once
#include "cagc/common.h"
#include <Python.h>
#include <cstdint>

namespace cagc {

// What a tensor of the CPU is to a kernel. Its elements live as long as the Python object.
struct Tensor {
  static constexpr int64_t kMost = 6;  // dimensions
  PyObject *object = nullptr;
  void *data = nullptr;
  int64_t ndim = 0, shape[kMost] = {}, stride[kMost] = {};
  bool is_float = false;           // of one of the dtypes of kernels
  DType dtype = DType::float32;    // where is_float

  // Reads `from`, an ordinary strided tensor of the CPU, which with `graph` must not require a gradient. Returns false
  // for every other object, without a Python error.
  bool read(PyObject *from, bool graph);

  int64_t numel() const;
  bool is_dense() const;       // in any order of the axes, without gaps
  bool is_contiguous() const;  // dense, with the last axis first
  // Whether channels of [N, C, H, W] are adjacent and pixels are not, as in cagc_kernels/layout.py.
  bool is_channels_last() const { return ndim == 4 && stride[3] > 1 && stride[1] == 1 && shape[1] > 1; }
};

// The dtype in which a kernel sums values of `dtype`.
inline DType accumulator(DType dtype) { return dtype == DType::float64 ? DType::float64 : DType::float32; }

}  // namespace cagc
