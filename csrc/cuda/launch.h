// Kernel launches and dynamic shared memory, the two constructs of a .cu file that are not C++. The cuda_runtime.h of
// the emulator in tests/csrc defines both differently, so that g++ compiles the same sources.
#pragma once
#include "cagc/common.h"
#include <cuda_runtime.h>

#if !defined(CAGC_LAUNCH)

// `kernel` must not contain a comma, so bind an instance of a template to a name first.
#define CAGC_LAUNCH(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)

namespace cagc {

// Returns the dynamic shared memory of the launch, aligned for 16-byte accesses.
template <class T> __device__ __forceinline__ T *dynamic_shared() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T *>(bytes);
}

}  // namespace cagc

#endif

namespace cagc {

// Calls f(Type<T>{}, multiprocessors, stream) for the storage type T of `dtype` on the current device; f launches
// kernels. Returns null, or the message of an error.
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
