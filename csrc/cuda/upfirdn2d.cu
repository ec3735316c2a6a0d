// upfirdn2d on CUDA. Three kernels, all deterministic, chosen by upfirdn2d_cuda:
//   small      4 x 4 taps at the same size, up 2 or down 2: a tile of x in shared memory, several pixels per thread.
//              sm_80 and sm_90 have time for five times its 16 multiplications per pixel while they wait for memory, so
//              it does not split separable filters, and needs no synchronisation to find out whether a filter is one.
//   separable  taps given as a vector: filters rows into shared memory, then columns from there.
//   direct     all other cases, one thread per value.
#include "cagc/upfirdn2d.h"
#include "launch.h"
#include <algorithm>

namespace cagc {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSM = 32;
constexpr int kMaxShared = 48 * 1024;  // available on every device without opting in
constexpr int kColumns = 64;           // columns per tile of the separable kernel

template <class T, int N> struct alignas(sizeof(T) * N) Pack { T v[N]; };

__device__ __forceinline__ const void *plane_of(const Upfirdn2d &p, int64_t plane, int size) {
  const int64_t offset = plane / p.c * p.stride_n + plane % p.c * p.stride_c;
  return static_cast<const char *>(p.x) + offset * size;
}

// Sizes of the small kernel. A thread's pixel is V adjacent values: one value for NCHW, V channels for channels_last
// (LAST), where `lanes` adjacent threads share a position.
template <class T, int V, bool LAST, int UP, int DOWN> struct Small {
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int lanes = !LAST ? 1 : V > 1 ? 8 : 128 / (sizeof(T) < 4 ? 4 : sizeof(T));
  static constexpr int bx = !LAST ? kVector : DOWN == 2 ? 2 : 4;  // outputs per thread and row
  static constexpr int tx = LAST ? 4 : 16, ty = kThreads / lanes / tx;
  static constexpr int height = LAST ? (DOWN == 2 ? 8 : 16) : (DOWN == 2 ? ty : 2 * ty), width = tx * bx;
  static constexpr int in_h = UP == 2 ? height / 2 + 2 : DOWN == 2 ? 2 * height + 2 : height + 3;
  static constexpr int in_w = UP == 2 ? width / 2 + 2 : DOWN == 2 ? 2 * width + 2 : width + 3;
  // A thread reads `reads` pixels of a row, in packs of `unit` pixels.
  static constexpr int advance = bx * DOWN / UP, reads = UP == 2 ? bx / 2 + 2 : DOWN == 2 ? 2 * bx + 2 : bx + 3;
  static constexpr int unit = LAST ? 1 : advance < kVector ? advance : kVector, units = (reads + unit - 1) / unit;
  static constexpr int span = (tx - 1) * advance + units * unit;
  static constexpr int wide = span > in_w ? span : in_w;
  static constexpr int pitch = LAST ? wide : (wide + kVector - 1) / kVector * kVector;
  static constexpr int taps = 4 / UP;  // per phase
  static_assert(in_h * pitch * lanes * V * int(sizeof(T)) + 16 * 8 <= kMaxShared, "the tile is too large");
};

// Computes one row of a thread's outputs. ODD: output 0 begins between two pixels of the up-sampled row.
template <class T, int V, bool LAST, int UP, int DOWN, bool ODD, class A>
__device__ __forceinline__ void small_row(const T *tile, const A *weights, int row0, int ky0, int column, int lane,
                                          A (&sum)[Small<T, V, LAST, UP, DOWN>::bx][V]) {
  using S = Small<T, V, LAST, UP, DOWN>;
  using Unit = Pack<T, S::unit * V>;
#pragma unroll
  for (int i = 0; i < S::taps; i++) {
    Unit x[S::units];
#pragma unroll
    for (int u = 0; u < S::units; u++) {
      const int pixel = (row0 + i) * S::pitch + column + u * S::unit;
      x[u] = *reinterpret_cast<const Unit *>(tile + (pixel * S::lanes + lane) * V);
    }
    const A *w = weights + (ky0 + UP * i) * 4;
#pragma unroll
    for (int b = 0; b < S::bx; b++) {
      const int first = UP == 2 ? (b + !ODD) / 2 : b * DOWN, k0 = UP == 2 ? (b + ODD) % 2 : 0;
#pragma unroll
      for (int j = 0; j < S::taps; j++)
#pragma unroll
        for (int v = 0; v < V; v++) {
          const int at = first + j;
          sum[b][v] += w[k0 + UP * j] * static_cast<A>(x[at / S::unit].v[at % S::unit * V + v]);
        }
    }
  }
}

// Loads pixels [y, y + in_h) x [column, column + in_w) of a plane into the tile; pixels outside the plane are zero.
template <class T, int V, bool LAST, class S>
__device__ __forceinline__ void small_load(const Upfirdn2d &p, const T *x, T *tile, int64_t y, int64_t column,
                                           int64_t channel, bool vector) {
  if (!LAST && vector) {
    constexpr int n = S::kVector, packs = (S::in_w + 2 * n - 2) / n;
    const int64_t aligned = floor_div(column, n) * n;
    for (int i = threadIdx.x; i < S::in_h * packs; i += kThreads) {
      const int row = i / packs;
      const int64_t gy = y + row, gx = aligned + i % packs * n;
      const bool inside = gy >= 0 && gy < p.in_h && gx >= 0 && gx < p.in_w;
      const Pack<T, n> v = inside ? *reinterpret_cast<const Pack<T, n> *>(x + gy * p.stride_h + gx) : Pack<T, n>{};
#pragma unroll
      for (int k = 0; k < n; k++) {
        const int to = int(gx - column) + k;
        if (to >= 0 && to < S::in_w) tile[row * S::pitch + to] = v.v[k];
      }
    }
    return;
  }
  for (int i = threadIdx.x; i < S::in_h * S::in_w * S::lanes; i += kThreads) {
    const int lane = i % S::lanes, to = i / S::lanes % S::in_w, row = i / S::lanes / S::in_w;
    const int64_t gy = y + row, gx = column + to, c = channel + lane * V;
    const bool inside = gy >= 0 && gy < p.in_h && gx >= 0 && gx < p.in_w && c < p.inner;
    const T *from = x + gy * p.stride_h + gx * p.inner + c;
    *reinterpret_cast<Pack<T, V> *>(tile + ((row * S::pitch + to) * S::lanes + lane) * V) =
        inside ? *reinterpret_cast<const Pack<T, V> *>(from) : Pack<T, V>{};
  }
}

template <class T, int V, int BX, bool LAST, class A>
__device__ __forceinline__ void small_store(const Upfirdn2d &p, T *row, int64_t ox, int64_t c, const A (&sum)[BX][V],
                                            bool vector) {
  if constexpr (LAST) {
#pragma unroll
    for (int b = 0; b < BX; b++) {
      if (ox + b >= p.out_w || c >= p.inner) continue;
      Pack<T, V> pixel;
#pragma unroll
      for (int v = 0; v < V; v++) pixel.v[v] = static_cast<T>(sum[b][v]);
      *reinterpret_cast<Pack<T, V> *>(row + (ox + b) * p.inner + c) = pixel;
    }
  } else if (vector) {
    Pack<T, BX> pixels;
#pragma unroll
    for (int b = 0; b < BX; b++) pixels.v[b] = static_cast<T>(sum[b][0]);
    if (ox < p.out_w) *reinterpret_cast<Pack<T, BX> *>(row + ox) = pixels;
  } else {
#pragma unroll
    for (int b = 0; b < BX; b++)
      if (ox + b < p.out_w) row[ox + b] = static_cast<T>(sum[b][0]);
  }
}

template <class T, int V, bool LAST, int UP, int DOWN>
__global__ void __launch_bounds__(kThreads, 2) small_kernel(Upfirdn2d p, int64_t tiles, bool vector_in,
                                                            bool vector_out) {
  using A = acc_t<T>;
  using S = Small<T, V, LAST, UP, DOWN>;
  __shared__ __align__(16) T tile[S::in_h * S::pitch * S::lanes * V];
  __shared__ A weights[16];
  const int tid = threadIdx.x, lane = tid % S::lanes, tx = tid / S::lanes % S::tx, ty = tid / S::lanes / S::tx;
  if (tid < 16) weights[tid] = tap<A>(p, tid / 4, tid % 4) * static_cast<A>(p.gain);
  const int64_t groups = (p.inner + S::lanes * V - 1) / (S::lanes * V);
  const int64_t across = (p.out_w + S::width - 1) / S::width, down = (p.out_h + S::height - 1) / S::height;
  for (int64_t i = blockIdx.x; i < tiles; i += gridDim.x) {
    const int64_t channel = i % groups * S::lanes * V, plane = i / groups / across / down;
    const int64_t ox = i / groups % across * S::width, oy = i / groups / across % down * S::height;
    const Window wx = window(axis_x(p), ox), wy = window(axis_y(p), oy);
    __syncthreads();  // all threads have read the previous tile, and the weights are written
    small_load<T, V, LAST, S>(p, static_cast<const T *>(plane_of(p, plane, sizeof(T))), tile, wy.first, wx.first,
                              channel, vector_in);
    __syncthreads();
    for (int r = ty; r < S::height && oy + r < p.out_h; r += S::ty) {
      A sum[S::bx][V] = {};
      // The tile begins with the first input row of the first output row, whose k0 is 0 or, with UP 2, 0 or 1.
      const int k0 = int(wy.k0), row0 = UP == 2 ? (r + 1 - k0) / 2 : r * DOWN, ky0 = UP == 2 ? (r + k0) % 2 : 0;
      if (UP == 2 && wx.k0 == 1)
        small_row<T, V, LAST, UP, DOWN, true>(tile, weights, row0, ky0, tx * S::advance, lane, sum);
      else
        small_row<T, V, LAST, UP, DOWN, false>(tile, weights, row0, ky0, tx * S::advance, lane, sum);
      T *row = static_cast<T *>(p.out) + (plane * p.out_h + oy + r) * p.out_w * p.inner;
      small_store<T, V, S::bx, LAST>(p, row, ox + tx * S::bx, channel + lane * V, sum, vector_out);
    }
  }
}

// A tile is `height` output rows by kColumns of the out_w * inner values of a row.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) separable_kernel(Upfirdn2d p, int64_t tiles, int height) {
  using A = acc_t<T>;
  A *rows = dynamic_shared<A>();
  const A *f = static_cast<const A *>(p.f);
  const Axis ax = axis_x(p), ay = axis_y(p);
  const int64_t values = p.out_w * p.inner, across = (values + kColumns - 1) / kColumns;
  const int64_t down = (p.out_h + height - 1) / height;
  for (int64_t i = blockIdx.x; i < tiles; i += gridDim.x) {
    const int64_t e0 = i % across * kColumns, oy = i / across % down * height, plane = i / across / down;
    const T *x = static_cast<const T *>(plane_of(p, plane, sizeof(T)));
    const int64_t last = (oy + height < p.out_h ? oy + height : p.out_h) - 1;
    const int64_t y0 = window(ay, oy).first;
    const Window end = window(ay, last);
    const int in_rows = int(end.first + end.count - y0);
    __syncthreads();
    for (int j = threadIdx.x; j < in_rows * kColumns; j += kThreads) {
      const int64_t e = e0 + j % kColumns, gy = y0 + j / kColumns, c = e % p.inner;
      A sum = A(0);
      if (e < values && gy >= 0 && gy < p.in_h) {
        const Window w = window(ax, e / p.inner);
        const T *row = x + gy * p.stride_h + c;
        for (int64_t t = 0, k = w.k0; t < w.count; t++, k += ax.up) {
          const int64_t gx = w.first + t;
          if (gx >= 0 && gx < p.in_w) sum += f[p.flip ? k : p.f_w - 1 - k] * static_cast<A>(row[gx * p.inner]);
        }
      }
      rows[j] = sum;
    }
    __syncthreads();
    for (int j = threadIdx.x; j < height * kColumns; j += kThreads) {
      const int64_t e = e0 + j % kColumns, o = oy + j / kColumns;
      if (e >= values || o >= p.out_h) continue;
      const Window w = window(ay, o);
      A sum = A(0);
      for (int64_t t = 0, k = w.k0; t < w.count; t++, k += ay.up)
        sum += f[p.flip ? k : p.f_w - 1 - k] * rows[(w.first + t - y0) * kColumns + j % kColumns];
      static_cast<T *>(p.out)[(plane * p.out_h + o) * values + e] = static_cast<T>(sum * static_cast<A>(p.gain));
    }
  }
}

template <class T> __global__ void __launch_bounds__(kThreads, 2) direct_kernel(Upfirdn2d p, int64_t numel) {
  using A = acc_t<T>;
  const Axis ax = axis_x(p), ay = axis_y(p);
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < numel; i += stride) {
    const int64_t c = i % p.inner, pixel = i / p.inner, plane = pixel / p.out_w / p.out_h;
    const T *x = static_cast<const T *>(plane_of(p, plane, sizeof(T))) + c;
    const Window wx = window(ax, pixel % p.out_w), wy = window(ay, pixel / p.out_w % p.out_h);
    A sum = A(0);
    for (int64_t s = 0; s < wy.count; s++) {
      const int64_t gy = wy.first + s;
      if (gy < 0 || gy >= p.in_h) continue;
      for (int64_t t = 0; t < wx.count; t++) {
        const int64_t gx = wx.first + t;
        if (gx < 0 || gx >= p.in_w) continue;
        const A w = p.f ? tap<A>(p, wy.k0 + s * ay.up, wx.k0 + t * ax.up) : A(1);
        sum += w * static_cast<A>(x[gy * p.stride_h + gx * p.inner]);
      }
    }
    static_cast<T *>(p.out)[i] = static_cast<T>(sum * static_cast<A>(p.gain));
  }
}

// Each block computes several tiles; there are enough blocks for an even load at the end.
unsigned blocks_for(int64_t wanted, int sms) {
  return unsigned(std::min<int64_t>(wanted, int64_t(sms) * kBlocksPerSM));
}

bool aligned(const Upfirdn2d &p, const void *base, int64_t width, int vector) {
  const bool strides = p.stride_n % vector == 0 && p.stride_c % vector == 0 && p.stride_h % vector == 0;
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 && width % vector == 0 && (base == p.out || strides);
}

template <class T, int V, bool LAST, int UP, int DOWN>
void launch_small(const Upfirdn2d &p, int sms, cudaStream_t stream) {
  using S = Small<T, V, LAST, UP, DOWN>;
  const int64_t groups = (p.inner + S::lanes * V - 1) / (S::lanes * V);
  const int64_t tiles = p.n * p.c * groups * ((p.out_w + S::width - 1) / S::width) *
                        ((p.out_h + S::height - 1) / S::height);
  const bool in = aligned(p, p.x, p.in_w, S::kVector), out = aligned(p, p.out, p.out_w, S::kVector);
  const auto kernel = small_kernel<T, V, LAST, UP, DOWN>;
  CAGC_LAUNCH(kernel, blocks_for(tiles, sms), kThreads, 0, stream, p, tiles, in, out);
}

template <class T, int UP, int DOWN> void launch_layout(const Upfirdn2d &p, int sms, cudaStream_t stream) {
  constexpr int vector = 16 / sizeof(T);
  if (p.inner == 1) return launch_small<T, 1, false, UP, DOWN>(p, sms, stream);
  if (aligned(p, p.x, p.inner, vector) && aligned(p, p.out, p.inner, vector))
    return launch_small<T, vector, true, UP, DOWN>(p, sms, stream);
  launch_small<T, 1, true, UP, DOWN>(p, sms, stream);
}

// Rows of x that a tile of `height` output rows reads.
int64_t rows_under(const Upfirdn2d &p, int64_t height) { return ((height - 1) * p.down_y + p.f_h) / p.up_y + 2; }

template <class T> bool launch_separable(const Upfirdn2d &p, int sms, cudaStream_t stream) {
  constexpr int64_t bytes = kColumns * sizeof(acc_t<T>);
  int64_t height = 32;
  while (height > 1 && rows_under(p, height) * bytes > kMaxShared) height /= 2;
  const int64_t shared = rows_under(p, height) * bytes;
  if (shared > kMaxShared) return false;
  const int64_t across = (p.out_w * p.inner + kColumns - 1) / kColumns;
  const int64_t tiles = p.n * p.c * across * ((p.out_h + height - 1) / height);
  const auto kernel = separable_kernel<T>;
  CAGC_LAUNCH(kernel, blocks_for(tiles, sms), kThreads, size_t(shared), stream, p, tiles, int(height));
  return true;
}

template <class T> void launch(const Upfirdn2d &p, int sms, cudaStream_t stream) {
  const bool square = p.up_x == p.up_y && p.down_x == p.down_y && p.f_h == 4 && p.f_w == 4;
  if (square && p.up_x == 1 && p.down_x == 1) return launch_layout<T, 1, 1>(p, sms, stream);
  if (square && p.up_x == 2 && p.down_x == 1) return launch_layout<T, 2, 1>(p, sms, stream);
  if (square && p.up_x == 1 && p.down_x == 2) return launch_layout<T, 1, 2>(p, sms, stream);
  if (p.f && p.separable && launch_separable<T>(p, sms, stream)) return;
  const int64_t numel = p.n * p.c * p.inner * p.out_h * p.out_w;
  const auto kernel = direct_kernel<T>;
  CAGC_LAUNCH(kernel, blocks_for((numel + kThreads - 1) / kThreads, sms), kThreads, 0, stream, p, numel);
}

}  // namespace

const char *upfirdn2d_cuda(const Upfirdn2d &p, void *stream) {
  if (p.n * p.c * p.inner * p.out_h * p.out_w == 0) return nullptr;
  return launch_for(p.dtype, stream, [&](auto type, int sms, cudaStream_t cuda_stream) {
    launch<typename decltype(type)::type>(p, sms, cuda_stream);
  });
}

}  // namespace cagc
