// What the files of the Python module share: checks of arguments that become ValueErrors, and addresses as pointers.
#pragma once
#include "cagc/synthesis.h"
#include <cstdint>
#include <pybind11/pybind11.h>
#include <stdexcept>
#include <string>

namespace py = pybind11;
using Pointer = std::uintptr_t;  // Tensor.data_ptr(), 0 where a tensor is absent

namespace cagc {

void bind_tensors(py::module_ &m);  // of module_tensors.cpp
// Of module_frozen.cpp.
void bind_sngan(py::module_ &m);
void bind_planar_conv(py::module_ &m);

}  // namespace cagc

inline void require(bool right, const char *op, const char *message) {
  if (!right) throw std::invalid_argument(std::string(op) + ": " + message);
}

// Fake, meta and functional tensors have a data pointer of 0: refuse instead of crashing.
inline void present(bool there, const char *op, const char *name) {
  if (!there) require(false, op, (std::string(name) + " is null (a fake, meta or functional tensor?)").c_str());
}

inline const float *floats(Pointer p) { return reinterpret_cast<const float *>(p); }
inline const double *doubles(Pointer p) { return reinterpret_cast<const double *>(p); }
inline float *writable(Pointer p) { return reinterpret_cast<float *>(p); }

inline const cagc::Kernels &kernels_of(const std::string &instructions) {
  const cagc::Kernels *kernels = cagc::find_kernels(instructions.c_str());
  if (!kernels)
    require(false, "synthesis", ("no kernels for instructions '" + instructions + "' here").c_str());
  return *kernels;
}
