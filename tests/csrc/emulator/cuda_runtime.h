// CUDA on the host, as far as kernels of threads, shared memory and barriers go. It stands in for NVIDIA's header of
// the same name when a .cu file is compiled by g++ with -D__CUDACC__; no part of a CUDA toolkit is needed.
//
// A launch runs at once, block after block. Each thread of a block is a fiber that runs until a barrier; which one
// comes next is drawn anew for every stretch between barriers, from a seed. Shared memory is all ones, a NaN of every
// type, when a block begins. A launch fails, as it would or should on a GPU, where a barrier is not reached by all,
// an access is misaligned or leaves its array, or the launch asks for more than the device has.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <math.h>
#include <set>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// thread_local may stand alone and beside `static`, and all of it lies in one stretch of memory that can be poisoned.
#define __shared__ thread_local

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
#define CAGC_VECTOR(T, name)                                   \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };           \
  struct alignas(16) name##4 { T x, y, z, w; };                \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }   \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CAGC_VECTOR(float, float)
CAGC_VECTOR(double, double)
CAGC_VECTOR(int, int)
CAGC_VECTOR(unsigned, uint)
#undef CAGC_VECTOR

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

using std::max;
using std::min;
inline float rsqrtf(float v) { return 1.f / std::sqrt(v); }
inline double rsqrt(double v) { return 1. / std::sqrt(v); }
template <class T> inline T __ldg(const T *p) { return *p; }

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorMisalignedAddress = 716,
  cudaErrorLaunchFailure = 719
};
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
using cudaStream_t = struct CUstream_st *;

cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char *cudaGetErrorString(cudaError_t error);

namespace cagc::emulator {

// Of every launch that follows. Seed 0 runs threads and blocks in ascending order.
void set_seed(uint64_t seed);
void set_multiprocessors(int count);

// Lines of the barriers that threads have reached; and one to leave out from now on, 0 for none: a test of whether
// the tests of a kernel would notice.
std::set<int> barriers_reached();
void skip_barrier(int line);

void barrier(int line);
void *shared_memory();
cudaError_t allow_shared(const void *kernel, cudaFuncAttribute attribute, int bytes);
void run(const void *kernel, dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t, A... arguments) {
  // By value, as a kernel's parameters are: no thread sees what another did to its own.
  run(reinterpret_cast<const void *>(kernel), grid, block, shared, [=] { kernel(arguments...); });
}

}  // namespace cagc::emulator

template <class F> cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute attribute, int value) {
  return cagc::emulator::allow_shared(reinterpret_cast<const void *>(kernel), attribute, value);
}

#define __syncthreads() cagc::emulator::barrier(__LINE__)
#define CAGC_LAUNCH(kernel, grid, block, shared, stream, ...) \
  cagc::emulator::launch(kernel, grid, block, shared, stream, __VA_ARGS__)

namespace cagc {
template <class T> T *dynamic_shared() { return static_cast<T *>(emulator::shared_memory()); }
}  // namespace cagc
