// Kernels with a fault on purpose: what the emulator must catch. PLANTED names the entry point of one compilation,
// REMOVE is the barrier left out of it: 0 none, 1 the one before reading, 2 the one before overwriting.
#include "launch.h"
#include "planted.h"

namespace cagc {
namespace {

constexpr int kTile = 64;

#define CAGC_BARRIER(n) \
  if (REMOVE != n) __syncthreads()

// out[i] = x[i] + the other end of i's tile of 64, tile after tile through the same shared memory. Half of it is
// static and half dynamic, so that both kinds of shared memory are seen.
__global__ void mirror_kernel(const float *x, float *out, int tiles) {
  static __shared__ float low[kTile / 2];
  float *high = dynamic_shared<float>();
  const int i = threadIdx.x, j = kTile - 1 - i;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    (i < kTile / 2 ? low[i] : high[i - kTile / 2]) = x[tile * kTile + i];
    CAGC_BARRIER(1);
    out[tile * kTile + i] = x[tile * kTile + i] + (j < kTile / 2 ? low[j] : high[j - kTile / 2]);
    CAGC_BARRIER(2);
  }
}

#if REMOVE == 0
__global__ void faulty_kernel(Fault fault, float *out, int n) {
  static __shared__ float tile[kTile];
  const int i = threadIdx.x;
  if (fault == Fault::half_a_barrier && i < kTile / 2) return;
  if (fault == Fault::two_barriers && i % 2) __syncthreads();
  else __syncthreads();
  tile[fault == Fault::past_the_array ? i + n : i] = 1;
  out[i] = tile[i];
  if (fault == Fault::past_dynamic) dynamic_shared<float>()[i + 1] = 1;
  if (fault == Fault::misaligned) *reinterpret_cast<float4 *>(out + n) = make_float4(1, 1, 1, 1);
}
#endif

}  // namespace

const char *PLANTED(const float *x, float *out, int tiles) {
  CAGC_LAUNCH(mirror_kernel, dim3(2), dim3(kTile), kTile / 2 * sizeof(float), nullptr, x, out, tiles);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

#if REMOVE == 0
const char *faulty(Fault fault, float *out) {
  const unsigned threads = fault == Fault::too_many_threads ? 2048 : kTile;
  CAGC_LAUNCH(faulty_kernel, dim3(1), dim3(threads), kTile * sizeof(float), nullptr, fault, out, 1);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
#endif

}  // namespace cagc
