// bias_act on CUDA: bound by memory, so each thread moves 16 bytes per access and strides over the grid.
//
// VEC elements share one access. They may, when every tensor is aligned to it and either lie in one channel
// (step % VEC == 0) or in VEC consecutive ones (step == 1, channels % VEC == 0); otherwise VEC is 1.
#include "cagc/bias_act.h"
#include "launch.h"
#include <algorithm>

namespace cagc {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSM = 8;  // 2048 resident threads, the limit of sm_80 and sm_90

template <class T, int VEC> struct alignas(sizeof(T) * VEC) Pack { T v[VEC]; };

template <class T, int VEC> __device__ __forceinline__ Pack<T, VEC> load(const void *p, int64_t i) {
  return p ? reinterpret_cast<const Pack<T, VEC> *>(p)[i] : Pack<T, VEC>{};
}

template <class A, class T> __device__ __forceinline__ A widen(T v) { return static_cast<A>(v); }

// SMOOTH keeps the transcendental functions, and their registers, out of the kernel that StyleGAN2 runs.
template <class T, int VEC, Pass PASS, bool SMOOTH>
__global__ void __launch_bounds__(kThreads) bias_act_kernel(BiasAct p, BiasActScalars<acc_t<T>> scalars) {
  using A = acc_t<T>;
  const int64_t packs = p.numel / VEC, stride = int64_t(gridDim.x) * kThreads;
  const T *bias = static_cast<const T *>(p.b);
  const void *source = p.y ? p.y : p.x;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < packs; i += stride) {
    const Pack<T, VEC> x = load<T, VEC>(source, i);
    const Pack<T, VEC> g = load<T, VEC>(PASS == Pass::value ? nullptr : p.g, i);
    const Pack<T, VEC> h = load<T, VEC>(PASS == Pass::curvature ? p.h : nullptr, i);
    // 64-bit division costs some 70 instructions; nearly every tensor fits 32 bits.
    const int64_t first = i * VEC;
    const bool small = p.numel <= 0x7fffffff;
    const int64_t channel = !bias ? 0
                            : small ? (uint32_t(first) / uint32_t(p.step)) % uint32_t(p.channels)
                                    : (first / p.step) % p.channels;
    const int across = p.step == 1 && p.channels > 1;
    Pack<T, VEC> out;
#pragma unroll
    for (int k = 0; k < VEC; k++) {
      const A u = widen<A>(x.v[k]) + (bias ? widen<A>(bias[channel + k * across]) : A(0));
      const A gk = widen<A>(g.v[k]), hk = widen<A>(h.v[k]);
      auto apply = [&](auto tag) {
        out.v[k] = static_cast<T>(bias_act_element<decltype(tag)::value, PASS>(u, gk, hk, scalars));
      };
      if constexpr (SMOOTH) {
        with_act(p.act, apply);
      } else {
        if (p.act == Act::lrelu) apply(ActTag<Act::lrelu>{});
        else if (p.act == Act::relu) apply(ActTag<Act::relu>{});
        else apply(ActTag<Act::linear>{});
      }
    }
    reinterpret_cast<Pack<T, VEC> *>(p.out)[i] = out;
  }
}

template <class T, int VEC, Pass PASS, bool SMOOTH> void launch(const BiasAct &p, int sms, cudaStream_t stream) {
  const int64_t blocks = (p.numel / VEC + kThreads - 1) / kThreads;
  const unsigned grid = unsigned(std::min<int64_t>(blocks, int64_t(sms) * kBlocksPerSM));
  const auto kernel = bias_act_kernel<T, VEC, PASS, SMOOTH>;
  CAGC_LAUNCH(kernel, grid, kThreads, 0, stream, p, BiasActScalars<acc_t<T>>(p));
}

template <class T, int VEC> void launch_pass(const BiasAct &p, int sms, cudaStream_t stream) {
  const bool smooth = !piecewise_linear(p.act);
  if (p.pass == Pass::value)
    smooth ? launch<T, VEC, Pass::value, true>(p, sms, stream) : launch<T, VEC, Pass::value, false>(p, sms, stream);
  else if (p.pass == Pass::slope)
    smooth ? launch<T, VEC, Pass::slope, true>(p, sms, stream) : launch<T, VEC, Pass::slope, false>(p, sms, stream);
  else
    launch<T, VEC, Pass::curvature, true>(p, sms, stream);
}

bool fits(const BiasAct &p, int vec, size_t bytes) {
  for (const void *q : {p.x, p.y, p.g, p.h, static_cast<const void *>(p.out)})
    if (reinterpret_cast<uintptr_t>(q) % bytes) return false;
  const bool one_channel = !p.b || p.channels == 1 || p.step % vec == 0;
  return p.numel % vec == 0 && (one_channel || (p.step == 1 && p.channels % vec == 0));
}

}  // namespace

const char *bias_act_cuda(const BiasAct &p, void *stream) {
  if (p.numel == 0) return nullptr;
  return launch_for(p.dtype, stream, [&](auto type, int sms, cudaStream_t cuda_stream) {
    using T = typename decltype(type)::type;
    constexpr int vec = 16 / sizeof(T);
    if (fits(p, vec, 16)) launch_pass<T, vec>(p, sms, cuda_stream);
    else launch_pass<T, 1>(p, sms, cuda_stream);
  });
}

}  // namespace cagc
