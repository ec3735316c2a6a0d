// The epilogue of a modulated convolution on CUDA: bound by memory, deterministic.
//   value      one pass; each access moves 16 bytes where the layout allows it
//   filtered   a thread walks down a column of the output and adds each row of x to the four output rows that use it,
//              so that x is read from memory once; the four taps along a row come from the cache
//   gradient   one pass with sums per chunk of pixels; if the noise needs a gradient, a second pass sums over channels
#include "cagc/epilogue.h"
#include "launch.h"
#include <algorithm>

namespace cagc {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSM = 32;
constexpr int kRows = 16;   // output rows per thread of filtered_kernel
constexpr int kLanes = 32;  // adjacent channels per block, for channels_last

template <class T, int VEC> struct alignas(sizeof(T) * VEC) Pack { T v[VEC]; };

template <class A> __device__ __forceinline__ A at(const void *p, int64_t i, A absent) {
  return p ? static_cast<const A *>(p)[i] : absent;
}

template <class A> __device__ __forceinline__ A value_of(const Epilogue &p, const EpilogueScalars<A> &k, A v) {
  A a = v;
  with_fused_act(p.act, [&](auto tag) { a = epilogue_value<decltype(tag)::value>(v, k); });
  return a;
}

// Applies the epilogue to VEC values: pixels of one channel, or VEC adjacent channels (LAST).
template <class T, int VEC, bool LAST>
__device__ __forceinline__ Pack<T, VEC> finish(const Epilogue &p, const EpilogueScalars<acc_t<T>> &k, int64_t n,
                                               int64_t c, int64_t pixel, const acc_t<T> (&u)[VEC]) {
  using A = acc_t<T>;
  Pack<T, VEC> out;
#pragma unroll
  for (int i = 0; i < VEC; i++) {
    const int64_t channel = LAST ? c + i : c, noise = n * p.noise_step + pixel + (LAST ? 0 : i);
    const A bias = at(p.noise, noise, A(0)) + at(p.b, channel, A(0));
    const A v = u[i] * at(p.d, n * p.c + channel, A(1)) + bias;
    out.v[i] = static_cast<T>(value_of(p, k, v) * at(p.s, n * p.c + channel, A(1)));
  }
  return out;
}

template <class T, int VEC, bool LAST>
__global__ void __launch_bounds__(kThreads, 4)
    value_kernel(Epilogue p, EpilogueScalars<acc_t<T>> k, int64_t packs) {
  using A = acc_t<T>;
  const int64_t pixels = p.out_h * p.out_w, stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < packs; i += stride) {
    const Pack<T, VEC> x = static_cast<const Pack<T, VEC> *>(p.x)[i];
    A u[VEC];
#pragma unroll
    for (int j = 0; j < VEC; j++) u[j] = static_cast<A>(x.v[j]);
    // (sample, slow, fast) are (n, pixel, c), or (n, c, pixel).
    const int64_t fast_size = LAST ? p.c : pixels, slow_size = LAST ? pixels : p.c;
    const int64_t first = i * VEC, outer = first / fast_size;
    const int64_t fast = first % fast_size, slow = outer % slow_size, n = outer / slow_size;
    static_cast<Pack<T, VEC> *>(p.out)[i] = finish<T, VEC, LAST>(p, k, n, LAST ? fast : slow, LAST ? slow : fast, u);
  }
}

// A row holds out_w * inner values: its pixels or, for channels_last (LAST), its pixels with all channels.
template <class T, int VEC, bool LAST>
__global__ void __launch_bounds__(kThreads, 2)
    filtered_kernel(Epilogue p, EpilogueScalars<acc_t<T>> k, int64_t columns) {
  using A = acc_t<T>;
  __shared__ A f[16];
  if (threadIdx.x < 16) f[threadIdx.x] = static_cast<const A *>(p.f)[threadIdx.x];
  __syncthreads();
  const int64_t inner = LAST ? p.c : 1, groups = p.out_w * inner / VEC, strips = (p.out_h + kRows - 1) / kRows;
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < columns; i += stride) {
    const int64_t e = i % groups * VEC, y0 = i / groups % strips * kRows, plane = i / groups / strips;
    const int64_t pixel = e / inner, channel = e % inner, n = LAST ? plane : plane / p.c;
    const T *x = static_cast<const T *>(p.x) + plane * p.in_h * p.in_w * inner + channel;
    T *out = static_cast<T *>(p.out) + (plane * p.out_h + y0) * p.out_w * inner + e;
    const int rows = int(p.out_h - y0 < kRows ? p.out_h - y0 : kRows);
    A sum[4][VEC] = {};  // of the output rows r - 3 to r
    for (int r = 0; r < rows + 3; r++) {
#pragma unroll
      for (int j = 0; j < 3; j++)
#pragma unroll
        for (int v = 0; v < VEC; v++) sum[j][v] = sum[j + 1][v];
#pragma unroll
      for (int v = 0; v < VEC; v++) sum[3][v] = A(0);
      const int64_t gy = y0 + r - p.pad_y;
      if (gy >= 0 && gy < p.in_h) {
#pragma unroll
        for (int t = 0; t < 4; t++) {
          const int64_t gx = pixel + t - p.pad_x;
          if (gx < 0 || gx >= p.in_w) continue;
          const Pack<T, VEC> tap = *reinterpret_cast<const Pack<T, VEC> *>(x + (gy * p.in_w + gx) * inner);
#pragma unroll
          for (int j = 0; j < 4; j++)
#pragma unroll
            for (int v = 0; v < VEC; v++) sum[j][v] += f[(3 - j) * 4 + t] * static_cast<A>(tap.v[v]);
        }
      }
      if (r < 3) continue;
      const int64_t at_pixel = (y0 + r - 3) * p.out_w + pixel;
      *reinterpret_cast<Pack<T, VEC> *>(out + (r - 3) * p.out_w * inner) =
          finish<T, VEC, LAST>(p, k, n, LAST ? channel : plane % p.c, at_pixel, sum[0]);
    }
  }
}

// The terms that one value contributes to the gradients.
template <class A> struct Share { A u, a, g, gv, d; };

template <class T>
__device__ __forceinline__ Share<acc_t<T>> share(const Epilogue &p, const EpilogueScalars<acc_t<T>> &k, int64_t n,
                                                 int64_t c, int64_t pixel, int64_t i) {
  using A = acc_t<T>;
  Share<A> s;
  s.u = static_cast<A>(static_cast<const T *>(p.x)[i]), s.g = static_cast<A>(static_cast<const T *>(p.g)[i]);
  s.d = at(p.d, n * p.c + c, A(1));
  const A v = s.u * s.d + (at(p.noise, n * p.noise_step + pixel, A(0)) + at(p.b, c, A(0)));
  const A ga = s.g * at(p.s, n * p.c + c, A(1));
  with_fused_act(p.act, [&](auto tag) {
    s.a = epilogue_value<decltype(tag)::value>(v, k);
    s.gv = epilogue_gradient<decltype(tag)::value>(v, s.a, ga, k);
  });
  return s;
}

// One block per chunk of pixels of a sample and per channel, or per kLanes channels (LAST).
template <class T, bool LAST>
__global__ void __launch_bounds__(kThreads) gradient_kernel(Epilogue p, EpilogueScalars<acc_t<T>> k, int64_t blocks) {
  using A = acc_t<T>;
  __shared__ A sums[3][kThreads];
  const int tid = threadIdx.x;
  constexpr int lanes = LAST ? kLanes : 1;
  const int64_t groups = (p.c + lanes - 1) / lanes, count = chunks(p), pixels = p.out_h * p.out_w;
  for (int64_t i = blockIdx.x; i < blocks; i += gridDim.x) {
    const int64_t c = i % groups * lanes + tid % lanes, part = i / groups % count, n = i / groups / count;
    const int64_t end = (part + 1) * p.chunk < pixels ? (part + 1) * p.chunk : pixels;
    A du_u = A(0), du_1 = A(0), g_a = A(0);
    if (c < p.c)
      for (int64_t pixel = part * p.chunk + tid / lanes; pixel < end; pixel += kThreads / lanes) {
        const int64_t e = n * p.c * pixels + (LAST ? pixel * p.c + c : c * pixels + pixel);
        const Share<A> s = share<T>(p, k, n, c, pixel, e);
        static_cast<T *>(p.out)[e] = static_cast<T>(s.gv * s.d);
        du_u += s.gv * s.u, du_1 += s.gv, g_a += s.g * s.a;
      }
    __syncthreads();  // all threads have read the previous sums
    sums[0][tid] = du_u, sums[1][tid] = du_1, sums[2][tid] = g_a;
    for (int half = kThreads / 2; half >= lanes; half /= 2) {
      __syncthreads();
      if (tid < half)
        for (int j = 0; j < 3; j++) sums[j][tid] += sums[j][tid + half];
    }
    if (tid < lanes && c < p.c)
      for (int j = 0; j < 3; j++)
        static_cast<A *>(p.sums)[((j * p.n + n) * count + part) * p.c + c] = sums[j][tid];
  }
}

// One block per kThreads pixels, or per kThreads / kLanes pixels whose channels are summed by kLanes threads (LAST).
template <class T, bool LAST>
__global__ void __launch_bounds__(kThreads) noise_kernel(Epilogue p, EpilogueScalars<acc_t<T>> k, int64_t blocks) {
  using A = acc_t<T>;
  __shared__ A sums[kThreads];
  const int tid = threadIdx.x;
  constexpr int lanes = LAST ? kLanes : 1;
  const int64_t pixels = p.out_h * p.out_w;
  for (int64_t i = blockIdx.x; i < blocks; i += gridDim.x) {
    const int64_t at_pixel = i * (kThreads / lanes) + tid / lanes, n = at_pixel / pixels, pixel = at_pixel % pixels;
    A sum = A(0);
    if (n < p.n)
      for (int64_t c = tid % lanes; c < p.c; c += lanes)
        sum += share<T>(p, k, n, c, pixel, n * p.c * pixels + (LAST ? pixel * p.c + c : c * pixels + pixel)).gv;
    if constexpr (LAST) {
      __syncthreads();  // all threads have read the previous sums
      sums[tid] = sum;
      for (int half = lanes / 2; half > 0; half /= 2) {
        __syncthreads();
        if (tid % lanes < half) sums[tid] += sums[tid + half];
      }
      sum = sums[tid];
    }
    if (n < p.n && tid % lanes == 0) static_cast<A *>(p.dnoise)[at_pixel] = sum;
  }
}

unsigned blocks_for(int64_t wanted, int sms) {
  return unsigned(std::min<int64_t>(wanted, int64_t(sms) * kBlocksPerSM));
}

unsigned blocks_of_threads(int64_t threads, int sms) { return blocks_for((threads + kThreads - 1) / kThreads, sms); }

template <class T, int VEC, bool LAST> void launch_value(const Epilogue &p, int sms, cudaStream_t stream) {
  const EpilogueScalars<acc_t<T>> k(p);
  if (p.f) {
    const int64_t inner = LAST ? p.c : 1, planes = LAST ? p.n : p.n * p.c;
    const int64_t columns = p.out_w * inner / VEC * ((p.out_h + kRows - 1) / kRows) * planes;
    const auto kernel = filtered_kernel<T, VEC, LAST>;
    CAGC_LAUNCH(kernel, blocks_of_threads(columns, sms), kThreads, 0, stream, p, k, columns);
  } else {
    const int64_t packs = p.n * p.c * p.out_h * p.out_w / VEC;
    const auto kernel = value_kernel<T, VEC, LAST>;
    CAGC_LAUNCH(kernel, blocks_of_threads(packs, sms), kThreads, 0, stream, p, k, packs);
  }
}

template <class T, bool LAST> void launch_gradient(const Epilogue &p, int sms, cudaStream_t stream) {
  const EpilogueScalars<acc_t<T>> k(p);
  constexpr int lanes = LAST ? kLanes : 1, beside = kThreads / lanes;
  const int64_t blocks = p.n * chunks(p) * ((p.c + lanes - 1) / lanes), pixels = p.n * p.out_h * p.out_w;
  const auto kernel = gradient_kernel<T, LAST>;
  CAGC_LAUNCH(kernel, blocks_for(blocks, sms), kThreads, 0, stream, p, k, blocks);
  if (!p.noise) return;
  const int64_t rows = (pixels + beside - 1) / beside;
  const auto sum_channels = noise_kernel<T, LAST>;
  CAGC_LAUNCH(sum_channels, blocks_for(rows, sms), kThreads, 0, stream, p, k, rows);
}

template <class T> void launch(const Epilogue &p, int sms, cudaStream_t stream) {
  if (p.g && p.channels_last) return launch_gradient<T, true>(p, sms, stream);
  if (p.g) return launch_gradient<T, false>(p, sms, stream);
  constexpr int vector = 16 / sizeof(T);
  bool aligned = reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && reinterpret_cast<uintptr_t>(p.out) % 16 == 0;
  aligned = aligned && (p.channels_last ? p.c : p.f ? 1 : p.out_h * p.out_w) % vector == 0;
  if (p.channels_last && aligned) return launch_value<T, vector, true>(p, sms, stream);
  if (p.channels_last) return launch_value<T, 1, true>(p, sms, stream);
  if (aligned && !p.f) return launch_value<T, vector, false>(p, sms, stream);
  launch_value<T, 1, false>(p, sms, stream);
}

}  // namespace

const char *epilogue_cuda(const Epilogue &p, void *stream) {
  if (p.n * p.c * p.out_h * p.out_w == 0) return nullptr;
  return launch_for(p.dtype, stream, [&](auto type, int sms, cudaStream_t cuda_stream) {
    launch<typename decltype(type)::type>(p, sms, cuda_stream);
  });
}

}  // namespace cagc
