// bias_act on CUDA. It is bound by memory, so each thread moves 16 bytes per access in a grid-stride loop.
//
// An access covers VEC elements if every tensor is aligned for it and they belong either to one channel
// (step % VEC == 0) or to VEC consecutive channels (step == 1, channels % VEC == 0); otherwise VEC is 1.
//
// The gradient pass also computes the sums for the gradient of the bias, in pieces and without atomics, so that
// results are the same bits in every run.
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

// Computes pack i. Its elements belong to `channel` or, with `across`, to VEC channels from there on. Without SMOOTH
// the kernel has no transcendental functions and does not need their registers; StyleGAN2 runs such kernels only.
template <class T, int VEC, Pass PASS, bool SMOOTH>
__device__ __forceinline__ Pack<acc_t<T>, VEC> element(const BiasAct &p, const BiasActScalars<acc_t<T>> &scalars,
                                                       int64_t i, int64_t channel, bool across) {
  using A = acc_t<T>;
  const T *bias = static_cast<const T *>(p.b);
  const Pack<T, VEC> x = load<T, VEC>(p.y ? p.y : p.x, i);
  const Pack<T, VEC> g = load<T, VEC>(PASS == Pass::value ? nullptr : p.g, i);
  const Pack<T, VEC> h = load<T, VEC>(PASS == Pass::second_gradient ? p.h : nullptr, i);
  Pack<A, VEC> out;
#pragma unroll
  for (int k = 0; k < VEC; k++) {
    const A u = widen<A>(x.v[k]) + (bias ? widen<A>(bias[channel + k * across]) : A(0));
    const A gk = widen<A>(g.v[k]), hk = widen<A>(h.v[k]);
    auto apply = [&](auto tag) { out.v[k] = bias_act_element<decltype(tag)::value, PASS>(u, gk, hk, scalars); };
    if constexpr (SMOOTH) {
      with_act(p.act, apply);
    } else {
      if (p.act == Act::lrelu) apply(ActTag<Act::lrelu>{});
      else if (p.act == Act::relu) apply(ActTag<Act::relu>{});
      else apply(ActTag<Act::linear>{});
    }
  }
  return out;
}

template <class T, int VEC> __device__ __forceinline__ void store(void *p, int64_t i, const Pack<acc_t<T>, VEC> &u) {
  Pack<T, VEC> out;
#pragma unroll
  for (int k = 0; k < VEC; k++) out.v[k] = static_cast<T>(u.v[k]);
  static_cast<Pack<T, VEC> *>(p)[i] = out;
}

template <class T, int VEC, Pass PASS, bool SMOOTH>
__global__ void __launch_bounds__(kThreads) bias_act_kernel(BiasAct p, BiasActScalars<acc_t<T>> scalars) {
  const int64_t packs = p.numel / VEC, stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < packs; i += stride) {
    // 64-bit division costs some 70 instructions; nearly every tensor fits 32 bits.
    const int64_t first = i * VEC;
    const bool small = p.numel <= 0x7fffffff;
    const int64_t channel = !p.b ? 0
                            : small ? (uint32_t(first) / uint32_t(p.step)) % uint32_t(p.channels)
                                    : (first / p.step) % p.channels;
    store<T, VEC>(p.out, i, element<T, VEC, PASS, SMOOTH>(p, scalars, i, channel, p.step == 1 && p.channels > 1));
  }
}

// How a block sums: `team` threads share a piece (see BiasAct::sums), and `lanes` of them read adjacent packs of a row.
struct Sums {
  int64_t run, pieces, groups, all;
  int lanes, team;
};

// ACROSS (adjacent elements belong to adjacent channels): a thread sums VEC columns of a piece, and `groups` teams
// cover a row. Otherwise a piece belongs to one channel, and a thread has one sum.
template <class T, int VEC, bool SMOOTH, bool ACROSS>
__global__ void __launch_bounds__(kThreads, 3) sums_kernel(BiasAct p, BiasActScalars<acc_t<T>> scalars, Sums s) {
  using A = acc_t<T>;
  constexpr int values = ACROSS ? VEC : 1;
  __shared__ A sums[values][kThreads];
  const int tid = threadIdx.x, member = tid % s.team, teams = kThreads / s.team;
  const int64_t row = ACROSS ? p.channels : VEC;
  for (int64_t first = int64_t(blockIdx.x) * teams; first < s.all; first += int64_t(gridDim.x) * teams) {
    const int64_t i = first + tid / s.team, piece = i / s.groups, before = piece / s.pieces * s.run;
    const int64_t begin = before + piece % s.pieces * p.chunk;
    const int64_t end = before + s.run < begin + p.chunk ? before + s.run : begin + p.chunk;
    const int64_t column = ACROSS ? (i % s.groups * s.lanes + member % s.lanes) * VEC : 0;
    const int64_t channel = ACROSS ? column : piece / s.pieces % p.channels;
    const bool works = i < s.all && (!ACROSS || column < p.channels);
    A sum[values] = {};
    for (int64_t e = begin + member / s.lanes * row + column; works && e < end; e += s.team / s.lanes * row) {
      const Pack<A, VEC> out = element<T, VEC, Pass::gradient, SMOOTH>(p, scalars, e / VEC, channel, ACROSS);
      store<T, VEC>(p.out, e / VEC, out);
#pragma unroll
      for (int k = 0; k < VEC; k++) sum[ACROSS ? k : 0] += out.v[k];
    }
    __syncthreads();  // all threads have read the previous sums
    for (int k = 0; k < values; k++) sums[k][tid] = sum[k];
    for (int half = s.team / 2; half >= s.lanes; half /= 2) {
      __syncthreads();
      if (member < half)
        for (int k = 0; k < values; k++) sums[k][tid] += sums[k][tid + half];
    }
    if (works && member < s.lanes)
      for (int k = 0; k < values; k++)
        static_cast<A *>(p.sums)[ACROSS ? piece * p.channels + column + k : piece] = sums[k][tid];
  }
}

template <class T, int VEC, Pass PASS, bool SMOOTH> void launch(const BiasAct &p, int sms, cudaStream_t stream) {
  const int64_t blocks = (p.numel / VEC + kThreads - 1) / kThreads;
  const unsigned grid = unsigned(std::min<int64_t>(blocks, int64_t(sms) * kBlocksPerSM));
  const auto kernel = bias_act_kernel<T, VEC, PASS, SMOOTH>;
  CAGC_LAUNCH(kernel, grid, kThreads, 0, stream, p, BiasActScalars<acc_t<T>>(p));
}

template <class T, int VEC, bool SMOOTH, bool ACROSS> void launch_sums(const BiasAct &p, int sms, cudaStream_t stream) {
  Sums s{ACROSS || p.channels == 1 ? p.numel : p.step, 1, 1, 0, 1, 1};
  s.pieces = (s.run + p.chunk - 1) / p.chunk;
  if (ACROSS) {
    while (s.lanes < 32 && s.lanes * VEC < p.channels) s.lanes *= 2;
    s.groups = (p.channels + s.lanes * VEC - 1) / (s.lanes * VEC);
  }
  s.all = p.numel / s.run * s.pieces * s.groups;
  const int64_t rows = std::min(p.chunk, s.run) / (ACROSS ? p.channels : VEC);
  s.team = s.lanes;
  while (s.team < kThreads && s.team / s.lanes < rows) s.team *= 2;
  const int64_t teams = kThreads / s.team, blocks = (s.all + teams - 1) / teams;
  const unsigned grid = unsigned(std::min<int64_t>(blocks, int64_t(sms) * kBlocksPerSM));
  const auto kernel = sums_kernel<T, VEC, SMOOTH, ACROSS>;
  CAGC_LAUNCH(kernel, grid, kThreads, 0, stream, p, BiasActScalars<acc_t<T>>(p), s);
}

template <class T, int VEC, bool SMOOTH> void launch_gradient(const BiasAct &p, int sms, cudaStream_t stream) {
  if (!p.sums) launch<T, VEC, Pass::gradient, SMOOTH>(p, sms, stream);
  else if (p.step == 1 && p.channels > 1) launch_sums<T, VEC, SMOOTH, true>(p, sms, stream);
  else launch_sums<T, VEC, SMOOTH, false>(p, sms, stream);
}

template <class T, int VEC> void launch_pass(const BiasAct &p, int sms, cudaStream_t stream) {
  const bool smooth = !piecewise_linear(p.act);
  if (p.mode == Pass::value)
    smooth ? launch<T, VEC, Pass::value, true>(p, sms, stream) : launch<T, VEC, Pass::value, false>(p, sms, stream);
  else if (p.mode == Pass::gradient)
    smooth ? launch_gradient<T, VEC, true>(p, sms, stream) : launch_gradient<T, VEC, false>(p, sms, stream);
  else
    launch<T, VEC, Pass::second_gradient, true>(p, sms, stream);
}

bool fits(const BiasAct &p, int vec, size_t bytes) {
  for (const void *q : {p.x, p.y, p.g, p.h, static_cast<const void *>(p.out)})
    if (reinterpret_cast<uintptr_t>(q) % bytes) return false;
  const bool one_channel = !(p.b || p.sums) || p.channels == 1 || p.step % vec == 0;
  const bool whole = p.numel % vec == 0 && (!p.sums || p.chunk % vec == 0);
  return whole && (one_channel || (p.step == 1 && p.channels % vec == 0));
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
