// Sparse-channel convolution on CUDA: an implicit GEMM without tensor cores (those are used by the Triton kernel),
// deterministic, in the accumulate type. A block computes kOutputs chosen channels of kPixels pixels of one of the
// up * up phases. For every kDepth input channels and every tap, its threads load the pixels, times their styles, and
// the filters, through the index vectors, into shared memory.
#include "cagc/sparse_channel_conv2d.h"
#include "launch.h"
#include <algorithm>

namespace cagc {
namespace {

constexpr int kThreads = 256;
constexpr int kOutputs = 64, kPixels = 64, kDepth = 16;
constexpr int kSide = 16, kEach = 4;  // kSide x kSide threads with kEach x kEach sums each
constexpr int kLoads = kDepth * kPixels / kThreads;
constexpr int kBlocksPerSM = 32;
static_assert(kSide * kEach == kOutputs && kOutputs == kPixels, "one index serves outputs and pixels");

// Number of outputs of an axis that belong to a phase: outputs phase, phase + up, ...
__device__ __forceinline__ int64_t phase_size(int64_t out, int64_t up, int64_t phase) {
  return out > phase ? (out - phase + up - 1) / up : 0;
}

__device__ __forceinline__ float inverse_root(float v) { return rsqrtf(v); }
__device__ __forceinline__ double inverse_root(double v) { return rsqrt(v); }

// Computes the demodulation factor of each (n, output) in one block: rsqrt of the styled filters' energy.
template <class T, class W>
__global__ void __launch_bounds__(kThreads) demodulation_kernel(SparseChannelConv2d p, unsigned count) {
  using A = acc_t<T>;
  __shared__ A partial[kThreads];
  const int tid = threadIdx.x;
  const unsigned outputs = unsigned(p.c_out);  // 64-bit division costs a call, and its registers spill
  for (unsigned i = blockIdx.x; i < count; i += gridDim.x) {
    const unsigned n = i / outputs, o = i % outputs;
    const W *filters = static_cast<const W *>(p.weight) + p.out_channels[o] * p.weight_stride[0];
    A sum = A(0);
    for (int64_t c = tid; c < p.c_in; c += kThreads) {
      const W *w = filters + p.in_channels[c] * p.weight_stride[1];
      const A s = static_cast<const A *>(p.styles)[n * p.c_in + c];
      A energy = A(0);
      for (int64_t ky = 0; ky < p.k; ky++)
        for (int64_t kx = 0; kx < p.k; kx++) {
          const A v = static_cast<A>(w[kernel_offset(p, ky, kx)]);
          energy += v * v;
        }
      sum += s * s * energy;
    }
    __syncthreads();  // all threads have read the previous total
    partial[tid] = sum;
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (tid < half) partial[tid] += partial[tid + half];
    }
    if (tid == 0) static_cast<A *>(p.factors)[i] = inverse_root(partial[0] + static_cast<A>(kDemodulationEps));
  }
}

template <class A> struct Shared {
  A x[kDepth][kPixels], w[kDepth][kOutputs];
};

// Loads kDepth input channels from c0 on for one tap. `x` is the tap's pixel in channel 0, null outside the image; `w`
// is the tap in the filters of the thread's output, null beyond the last output.
template <class T, class W, class A>
__device__ __forceinline__ void load(const SparseChannelConv2d &p, const T *x, const W *w, const A *styles, int64_t c0,
                                     Shared<A> &shared) {
  const int column = threadIdx.x % kPixels;
#pragma unroll
  for (int i = 0; i < kLoads; i++) {
    const int depth = threadIdx.x / kPixels + i * (kThreads / kPixels);
    const int64_t c = c0 + depth;
    A pixel = A(0), weight = A(0);
    if (c < p.c_in) {
      if (x) pixel = static_cast<A>(x[c * p.x_stride[1]]) * (styles ? styles[c] : A(1));
      if (w) weight = static_cast<A>(w[p.in_channels[c] * p.weight_stride[1]]);
    }
    shared.x[depth][column] = pixel;
    shared.w[depth][column] = weight;
  }
}

template <class A> __device__ __forceinline__ void multiply(const Shared<A> &shared, A (&sum)[kEach][kEach]) {
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
#pragma unroll
  for (int depth = 0; depth < kDepth; depth++) {
    A x[kEach], w[kEach];
#pragma unroll
    for (int i = 0; i < kEach; i++) x[i] = shared.x[depth][tx + i * kSide], w[i] = shared.w[depth][ty * kEach + i];
#pragma unroll
    for (int o = 0; o < kEach; o++)
#pragma unroll
      for (int i = 0; i < kEach; i++) sum[o][i] += w[o] * x[i];
  }
}

// Position of a tile: image, outputs, phase and pixels.
struct Place {
  int64_t n, output, phase_y, phase_x, rows, columns, pixel;
};

__device__ __forceinline__ Place place(const SparseChannelConv2d &p, int64_t tile, int64_t output_tiles) {
  Place at;
  at.output = tile % output_tiles * kOutputs, tile /= output_tiles;
  at.n = tile % p.n, tile /= p.n;
  for (at.phase_y = 0; at.phase_y < p.up; at.phase_y++)
    for (at.phase_x = 0; at.phase_x < p.up; at.phase_x++) {
      at.rows = phase_size(p.out_h, p.up, at.phase_y), at.columns = phase_size(p.out_w, p.up, at.phase_x);
      const int64_t count = (at.rows * at.columns + kPixels - 1) / kPixels;
      at.pixel = tile * kPixels;
      if (tile < count) return at;
      tile -= count;
    }
  return at;
}

template <class T, class W>
__global__ void __launch_bounds__(kThreads, 2) sparse_kernel(SparseChannelConv2d p, int64_t tiles,
                                                             int64_t output_tiles) {
  using A = acc_t<T>;
  __shared__ Shared<A> shared;
  const int column = threadIdx.x % kPixels, tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const Place at = place(p, tile, output_tiles);
    const int64_t pixel = at.pixel + column, y = pixel / at.columns, x = pixel % at.columns;
    const int64_t output = at.output + column;
    const T *image = static_cast<const T *>(p.x) + at.n * p.x_stride[0];
    const W *filters = output < p.c_out
        ? static_cast<const W *>(p.weight) + p.out_channels[output] * p.weight_stride[0] : nullptr;
    const A *styles = p.styles ? static_cast<const A *>(p.styles) + at.n * p.c_in : nullptr;
    A sum[kEach][kEach] = {};
    for (int64_t c0 = 0; c0 < p.c_in; c0 += kDepth)
      for (int64_t ky = 0; ky < p.k; ky++) {
        const int64_t dy = at.phase_y - p.pad + ky, iy = y + dy / p.up;
        if (dy % p.up) continue;  // the same for all threads of the block
        for (int64_t kx = 0; kx < p.k; kx++) {
          const int64_t dx = at.phase_x - p.pad + kx, ix = x + dx / p.up;
          if (dx % p.up) continue;
          const bool inside = y < at.rows && iy >= 0 && iy < p.in_h && ix >= 0 && ix < p.in_w;
          __syncthreads();  // all threads have multiplied the previous channels
          load<T, W, A>(p, inside ? image + iy * p.x_stride[2] + ix * p.x_stride[3] : nullptr,
                        filters ? filters + kernel_offset(p, ky, kx) : nullptr, styles, c0, shared);
          __syncthreads();
          multiply(shared, sum);
        }
      }
#pragma unroll
    for (int o = 0; o < kEach; o++) {
      const int64_t to = at.output + ty * kEach + o;
      if (to >= p.c_out) continue;
      const A factor = p.demodulate ? static_cast<const A *>(p.factors)[at.n * p.c_out + to] : A(1);
      T *plane = static_cast<T *>(p.out) + at.n * p.out_stride[0] + output_channel(p, to) * p.out_stride[1];
#pragma unroll
      for (int i = 0; i < kEach; i++) {
        const int64_t q = at.pixel + tx + i * kSide, row = q / at.columns;
        if (row >= at.rows) continue;
        const int64_t oy = row * p.up + at.phase_y, ox = q % at.columns * p.up + at.phase_x;
        plane[oy * p.out_stride[2] + ox * p.out_stride[3]] = static_cast<T>(sum[o][i] * factor);
      }
    }
  }
}

template <class T, class W> void launch(const SparseChannelConv2d &p, int sms, cudaStream_t stream) {
  const int64_t most = int64_t(sms) * kBlocksPerSM, output_tiles = (p.c_out + kOutputs - 1) / kOutputs;
  int64_t pixel_tiles = 0;
  for (int64_t y = 0; y < p.up; y++)
    for (int64_t x = 0; x < p.up; x++) {
      const int64_t rows = std::max<int64_t>(0, p.out_h - y + p.up - 1) / p.up;
      const int64_t columns = std::max<int64_t>(0, p.out_w - x + p.up - 1) / p.up;
      pixel_tiles += (rows * columns + kPixels - 1) / kPixels;
    }
  if (p.demodulate) {
    const auto demodulation = demodulation_kernel<T, W>;
    CAGC_LAUNCH(demodulation, unsigned(std::min(most, p.n * p.c_out)), kThreads, 0, stream, p,
                unsigned(p.n * p.c_out));
  }
  const int64_t tiles = output_tiles * p.n * pixel_tiles;
  const auto kernel = sparse_kernel<T, W>;
  CAGC_LAUNCH(kernel, unsigned(std::min(most, tiles)), kThreads, 0, stream, p, tiles, output_tiles);
}

}  // namespace

const char *sparse_channel_conv2d_cuda(const SparseChannelConv2d &p, void *stream) {
  if (p.n * p.c_out * p.out_h * p.out_w == 0) return nullptr;
  return launch_for(p.dtype, stream, [&](auto type, int sms, cudaStream_t cuda_stream) {
    using T = typename decltype(type)::type;
    if (p.weight_dtype == p.dtype) launch<T, T>(p, sms, cuda_stream);
    else launch<T, float>(p, sms, cuda_stream);
  });
}

}  // namespace cagc
