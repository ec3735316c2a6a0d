// filtered_lrelu on CUDA: a block computes a tile of the result. In shared memory it up-samples the images under the
// tile to the middle grid, applies the leaky ReLU and filters down; a separable filter runs along rows first, then
// along columns. No inserted zero is multiplied. Deterministic.
#include "cagc/filtered_lrelu.h"
#include "launch.h"
#include <algorithm>

namespace cagc {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSM = 16;
constexpr int kMaxShared = 48 * 1024;  // available on every device without opting in
constexpr int kLargestTile = 32;

// The most pixels of an image that `length` positions of the middle grid read.
CAGC_HD int pixels_under(int length, int taps, int factor) { return (length + taps - 2) / factor + 2; }

// Sizes of a tile in shared memory: the middle grid [mid_h, mid_w], then either pixels [in_h, in_w] and those filtered
// along x [in_h, mid_w], or the grid filtered along y [rows, mid_w].
struct Tile {
  int rows, columns, mid_h, mid_w, in_h, in_w;

  Tile(const FilteredLrelu &p, int size, int64_t height, int64_t width)
      : rows(int(std::min<int64_t>(size, height))), columns(int(std::min<int64_t>(size, width))) {
    const Leg x = spread_of_x(p), g = spread_of_g(p), gather = gather_of(p);
    mid_h = (rows - 1) * int(gather.factor) + int(gather.h), mid_w = (columns - 1) * int(gather.factor) + int(gather.w);
    in_h = in_w = 0;
    for (const Leg &leg : {x, g}) {
      in_h = std::max(in_h, pixels_under(mid_h, int(leg.h), int(leg.factor)));
      in_w = std::max(in_w, pixels_under(mid_w, int(leg.w), int(leg.factor)));
    }
  }

  int64_t elements() const {
    const int64_t spread = int64_t(in_h) * (in_w + mid_w), gathered = int64_t(rows) * mid_w;
    return int64_t(mid_h) * mid_w + std::max(spread, gathered);
  }
};

// Images of one plane.
template <class T> struct Plane {
  const T *data;
  int64_t height, width, stride;
  acc_t<T> bias;
};

// Part of an axis, counted from position `origin` of the middle grid: position m reads pixel first(m) of the tile.
struct Part {
  int factor, taps, shift;
  int64_t first_pixel;

  __device__ Part(int64_t factor_, int64_t taps_, int64_t pad, int64_t origin)
      : factor(int(factor_)), taps(int(taps_)) {
    const Window w = window(Axis{factor_, 1, pad, taps_}, origin);
    first_pixel = w.first, shift = int(factor_ - 1 - w.k0);
  }
  // Pixel and first tap of position m; the taps go on in steps of `factor`.
  __device__ __forceinline__ void at(int m, int &pixel, int &k) const {
    pixel = (m + shift) / factor;
    k = factor - 1 - (m + shift) % factor;
  }
};

// make(place, value) for each element of the tile's part of the middle grid, which begins at (y0, x0).
template <class T, class A, class F>
__device__ __forceinline__ void spread(const Leg &leg, const Plane<T> &plane, const Tile &tile, A *pixels, int64_t y0,
                                       int64_t x0, F &&make) {
  const Part py(leg.factor, leg.h, leg.pad_y, y0), px(leg.factor, leg.w, leg.pad_x, x0);
  A *rows = pixels + tile.in_h * tile.in_w;
  for (int i = threadIdx.x; i < tile.in_h * tile.in_w; i += kThreads) {
    const int64_t y = py.first_pixel + i / tile.in_w, x = px.first_pixel + i % tile.in_w;
    const bool inside = y >= 0 && y < plane.height && x >= 0 && x < plane.width;
    pixels[i] = inside ? static_cast<A>(plane.data[y * plane.stride + x]) + plane.bias : A(0);
  }
  __syncthreads();
  if (leg.separable) {
    for (int i = threadIdx.x; i < tile.in_h * tile.mid_w; i += kThreads) {
      int pixel, k;
      px.at(i % tile.mid_w, pixel, k);
      const A *from = pixels + i / tile.mid_w * tile.in_w + pixel;
      A sum = A(0);
      for (; k < px.taps; k += px.factor) sum += axis_tap<A>(leg, k) * *from++;
      rows[i] = sum;
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < tile.mid_h * tile.mid_w; i += kThreads) {
    int y, ky;
    py.at(i / tile.mid_w, y, ky);
    A sum = A(0);
    if (leg.separable) {
      const A *from = rows + y * tile.mid_w + i % tile.mid_w;
      for (; ky < py.taps; ky += py.factor, from += tile.mid_w) sum += axis_tap<A>(leg, ky) * *from;
    } else {
      int x, kx0;
      px.at(i % tile.mid_w, x, kx0);
      for (; ky < py.taps; ky += py.factor, y++)
        for (int kx = kx0, j = 0; kx < px.taps; kx += px.factor, j++)
          sum += tap<A>(leg, ky, kx) * pixels[y * tile.in_w + x + j];
    }
    make(i, sum);
  }
  __syncthreads();
}

// The tile's part of the result from its middle grid.
template <class T, class A>
__device__ __forceinline__ void gather(const Leg &leg, const Tile &tile, const A *mid, A *rows, T *out, int64_t stride,
                                       int64_t height, int64_t width) {
  const int factor = int(leg.factor);
  if (leg.separable) {
    for (int i = threadIdx.x; i < tile.rows * tile.mid_w; i += kThreads) {
      const A *from = mid + i / tile.mid_w * factor * tile.mid_w + i % tile.mid_w;
      A sum = A(0);
      for (int k = 0; k < int(leg.h); k++) sum += axis_tap<A>(leg, k) * from[k * tile.mid_w];
      rows[i] = sum;
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < tile.rows * tile.columns; i += kThreads) {
    const int y = i / tile.columns, x = i % tile.columns;
    if (y >= height || x >= width) continue;
    A sum = A(0);
    if (leg.separable) {
      for (int k = 0; k < int(leg.w); k++) sum += axis_tap<A>(leg, k) * rows[y * tile.mid_w + x * factor + k];
    } else {
      for (int ky = 0; ky < int(leg.h); ky++)
        for (int kx = 0; kx < int(leg.w); kx++)
          sum += tap<A>(leg, ky, kx) * mid[(y * factor + ky) * tile.mid_w + x * factor + kx];
    }
    out[y * stride + x] = static_cast<T>(sum);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) filtered_lrelu_kernel(FilteredLrelu p, BiasActScalars<acc_t<T>> scalars,
                                                                     Tile tile, int64_t tiles) {
  using A = acc_t<T>;
  A *mid = dynamic_shared<A>(), *rest = mid + tile.mid_h * tile.mid_w;
  const Leg leg = gather_of(p);
  const int64_t height = rows_of_result(p), width = columns_of_result(p);
  const int64_t across = (width + tile.columns - 1) / tile.columns, down = (height + tile.rows - 1) / tile.rows;
  for (int64_t i = blockIdx.x; i < tiles; i += gridDim.x) {
    const int64_t plane = i / across / down, oy = i / across % down * tile.rows, ox = i % across * tile.columns;
    const int64_t y0 = oy * leg.factor - leg.pad_y, x0 = ox * leg.factor - leg.pad_x;
    const T *x = static_cast<const T *>(p.x) + plane / p.c * p.stride_n + plane % p.c * p.stride_c;
    const Plane<T> images{x, p.in_h, p.in_w, p.stride_h, p.b ? static_cast<const A *>(p.b)[plane % p.c] : A(0)};
    // The grid is zero outside of its rows and columns.
    const auto exists = [&](int at) {
      const int64_t y = y0 + at / tile.mid_w, x = x0 + at % tile.mid_w;
      return y >= 0 && y < p.mid_h && x >= 0 && x < p.mid_w;
    };
    __syncthreads();  // all threads have read the tile before
    spread<T>(spread_of_x(p), images, tile, rest, y0, x0, [&](int at, A v) {
      mid[at] = exists(at) ? bias_act_element<Act::lrelu, Pass::value>(v, A(0), A(0), scalars) : A(0);
    });
    if (p.g) {
      const int64_t g_h = rows_of_g(p), g_w = columns_of_g(p);
      const Plane<T> through{static_cast<const T *>(p.g) + plane * g_h * g_w, g_h, g_w, g_w, A(0)};
      spread<T>(spread_of_g(p), through, tile, rest, y0, x0, [&](int at, A v) {
        mid[at] = exists(at) ? bias_act_element<Act::lrelu, Pass::gradient>(mid[at], v, A(0), scalars) : A(0);
      });
    }
    T *out = static_cast<T *>(p.out) + (plane * height + oy) * width + ox;
    gather<T>(leg, tile, mid, rest, out, width, height - oy, width - ox);
  }
}

template <class T> const char *launch(const FilteredLrelu &p, int sms, cudaStream_t stream) {
  const int64_t height = rows_of_result(p), width = columns_of_result(p);
  int size = kLargestTile;
  while (size > 1 && Tile(p, size, height, width).elements() * int64_t(sizeof(acc_t<T>)) > kMaxShared) size /= 2;
  const Tile tile(p, size, height, width);
  const int64_t shared = tile.elements() * int64_t(sizeof(acc_t<T>));
  if (shared > kMaxShared) return "filtered_lrelu: the filters need more shared memory than a block has";
  const int64_t across = (width + tile.columns - 1) / tile.columns, down = (height + tile.rows - 1) / tile.rows;
  const int64_t tiles = p.n * p.c * across * down;
  const auto kernel = filtered_lrelu_kernel<T>;
  CAGC_LAUNCH(kernel, unsigned(std::min<int64_t>(tiles, int64_t(sms) * kBlocksPerSM)), kThreads, size_t(shared), stream,
              p, scalars_of<acc_t<T>>(p), tile, tiles);
  return nullptr;
}

}  // namespace

const char *filtered_lrelu_cuda(const FilteredLrelu &p, void *stream) {
  if (p.n * p.c * rows_of_result(p) * columns_of_result(p) == 0) return nullptr;
  const char *refused = nullptr;
  const char *error = launch_for(p.dtype, stream, [&](auto type, int sms, cudaStream_t cuda_stream) {
    refused = launch<typename decltype(type)::type>(p, sms, cuda_stream);
  });
  return refused ? refused : error;
}

}  // namespace cagc
