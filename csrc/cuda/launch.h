// Launches and dynamic shared memory, the two things in a .cu file that are not C++. The emulator of tests/csrc has
// a cuda_runtime.h of its own that gives them another meaning, so that g++ compiles the same source.
#pragma once
#include "cagc/common.h"
#include <cuda_runtime.h>

#if !defined(CAGC_LAUNCH)

// `kernel` without a comma: bind a template's instance to a name first.
#define CAGC_LAUNCH(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)

namespace cagc {

// Start of the bytes that the launch asked for, aligned for 16-byte accesses.
template <class T> __device__ __forceinline__ T *dynamic_shared() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T *>(bytes);
}

}  // namespace cagc

#endif

namespace cagc {

// Calls f(Type<T>{}, multiprocessors, stream), which launches, for the storage type T of `dtype` on the current device.
// Null, or the message of the error that came.
template <class F> const char *launch_for(DType dtype, void *stream, F &&f) {
  int device = 0, sms = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  if (!with_dtype(dtype, [&](auto type) { f(type, sms, static_cast<cudaStream_t>(stream)); }))
    return "unknown dtype code";
  error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace cagc
