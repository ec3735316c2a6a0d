// Four-tap filters with vectors of 16 adjacent elements: columns of a plane (NCHW) or channels of a pixel
// (channels_last). NCHW: each row is filtered along x once, into a ring buffer of rows in L1, whose rows are then
// filtered into an output row. channels_last: a block of rows is filtered along y, pixel by pixel, into a ring buffer
// of pixels in L1, which are then filtered into output pixels. Both read x and write the output at consecutive
// addresses, which hardware prefetchers can follow. Masks handle the padding and the ends of rows.
#include "upfirdn2d_avx512.h"
#include "stream.h"

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <algorithm>
#include <immintrin.h>
#include "openmp.h"
#include <vector>

namespace cagc {
namespace {

#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

constexpr int64_t kLanes = 16;
// Starting the threads costs more than 32k elements on one thread (the grain size of at::parallel_for).
constexpr int64_t kGrain = 32768;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// A buffer of n floats, aligned for vectors.
class Buffer {
  std::vector<float> storage;

 public:
  explicit Buffer(int64_t n) : storage(n + kLanes) {}
  float *data() const {
    const auto address = reinterpret_cast<uintptr_t>(storage.data());
    return reinterpret_cast<float *>((address + 63) / 64 * 64);
  }
};

using Floats16 = __m512;
using Mask = __mmask16;
constexpr Mask kAll = 0xffff;

// One step along an axis: new pixels that it reads, outputs that it computes, pixels that those depend on.
template <Shape SHAPE> constexpr int kStep = SHAPE == Shape::down2 ? 2 : 1;
template <Shape SHAPE> constexpr int kOutputs = SHAPE == Shape::up2 ? 2 : 1;
template <Shape SHAPE> constexpr int kDepth = SHAPE == Shape::up2 ? 3 : 4;

CAGC_INLINE Floats16 load(Mask m, const float *p) { return _mm512_maskz_loadu_ps(m, p); }
CAGC_INLINE Floats16 load(Mask m, const half_t *p) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p)); }
CAGC_INLINE Floats16 load(Mask m, const bfloat_t *p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16));
}

CAGC_INLINE void store(float *p, Mask m, Floats16 v) { _mm512_mask_storeu_ps(p, m, v); }
CAGC_INLINE void store(half_t *p, Mask m, Floats16 v) {
  _mm256_mask_storeu_epi16(p, m, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
CAGC_INLINE void store(bfloat_t *p, Mask m, Floats16 v) {  // rounds as bfloat_t(float)
  const __m512i u = _mm512_castps_si512(v), top = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
  __m512i bits = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  bits = _mm512_mask_or_epi32(bits, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), top, _mm512_set1_epi32(0x40));
  _mm256_mask_storeu_epi16(p, m, _mm512_cvtepi32_epi16(bits));
}

// Non-temporal store; the address must be aligned (is_aligned()).
template <class T> CAGC_INLINE void stream(T *p, Floats16 v) {
  alignas(64) T values[kLanes];
  store(values, kAll, v);
  if constexpr (sizeof(T) == 4) _mm512_stream_si512(reinterpret_cast<__m512i *>(p), _mm512_load_si512(values));
  else _mm256_stream_si256(reinterpret_cast<__m256i *>(p), _mm256_load_si256(reinterpret_cast<__m256i *>(values)));
}
template <class T> bool is_aligned(const T *p) { return reinterpret_cast<uintptr_t>(p) % (kLanes * sizeof(T)) == 0; }

CAGC_INLINE Floats16 sum2(const float *w, Floats16 a, Floats16 b) {
  return _mm512_fmadd_ps(_mm512_set1_ps(w[1]), b, _mm512_mul_ps(_mm512_set1_ps(w[0]), a));
}
CAGC_INLINE Floats16 sum4(const float *w, Floats16 a, Floats16 b, Floats16 c, Floats16 d) {
  const Floats16 s = _mm512_fmadd_ps(_mm512_set1_ps(w[2]), c, sum2(w, a, b));
  return _mm512_fmadd_ps(_mm512_set1_ps(w[3]), d, s);
}

// Lanes of a vector from `begin` on that lie in [0, size).
inline Mask lanes(int64_t begin, int64_t size) {
  const int64_t low = std::clamp<int64_t>(-begin, 0, kLanes), high = std::clamp<int64_t>(size - begin, low, kLanes);
  return static_cast<Mask>(((1u << high) - 1) & ~((1u << low) - 1));
}

// Output rows of a channels_last block: as many as have their sums in registers.
template <Shape SHAPE> constexpr int kRows = SHAPE == Shape::down2 ? 2 : 4;

template <int N> CAGC_INLINE Floats16 shift(Floats16 a, Floats16 next) {
  return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(next), _mm512_castps_si512(a), N));
}

// Filters a row horizontally into `to`. Vectors of pixels are loaded in order, each with its own mask of `m`.
template <Shape SHAPE, class T>
CAGC_INLINE void filter_row(const T *x, const Mask *m, const float *w, float *to, int64_t out_w) {
  const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i two = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i next = _mm512_set_epi32(17, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1);
  Floats16 a = load(*m++, x);
  for (int64_t o = 0; o < out_w;) {
    const Floats16 b = load(*m++, x += kLanes);
    if constexpr (SHAPE == Shape::same4) {
      _mm512_store_ps(to + o, sum4(w, a, shift<1>(a, b), shift<2>(a, b), shift<3>(a, b)));
      a = b, o += kLanes;
    } else if constexpr (SHAPE == Shape::up2) {
      const Floats16 middle = shift<1>(a, b), even = sum2(w, a, middle), odd = sum2(w + 2, middle, shift<2>(a, b));
      _mm512_store_ps(to + o, _mm512_permutex2var_ps(even, low, odd));
      _mm512_store_ps(to + o + kLanes, _mm512_permutex2var_ps(even, _mm512_add_epi32(low, _mm512_set1_epi32(8)), odd));
      a = b, o += 2 * kLanes;
    } else {
      const Floats16 c = load(*m++, x += kLanes), even = _mm512_permutex2var_ps(a, two, b);
      const Floats16 odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(two, _mm512_set1_epi32(1)), b);
      _mm512_store_ps(to + o, sum4(w, even, odd, shift<1>(even, c), _mm512_permutex2var_ps(odd, next, c)));
      a = c, o += kLanes;
    }
  }
}

template <Shape SHAPE> CAGC_INLINE Floats16 combine(const float *w, const float *const *h, int64_t i) {
  const Floats16 a = _mm512_load_ps(h[0] + i), b = _mm512_load_ps(h[1] + i);
  if constexpr (SHAPE == Shape::up2) return sum2(w, a, b);
  const Floats16 c = _mm512_load_ps(h[2] + i), d = _mm512_load_ps(h[3] + i);
  return sum4(w, a, b, c, d);
}

// Computes n sums over rows of the ring buffer.
template <Shape SHAPE, class T>
CAGC_INLINE void combine_rows(const float *w, const float *const *h, T *out, int64_t n, bool past) {
  int64_t i = 0;
  if (past && is_aligned(out))
    for (; i + kLanes <= n; i += kLanes) stream(out + i, combine<SHAPE>(w, h, i));
  for (; i + kLanes <= n; i += kLanes) store(out + i, kAll, combine<SHAPE>(w, h, i));
  if (i < n) store(out + i, lanes(i, n), combine<SHAPE>(w, h, i));
}

// One plane and its output rows.
template <class T> struct Plane {
  const T *x;
  T *out;
  int64_t stride, in_h, out_w, first_x, first_y, begin, end;
  const Mask *mask;  // masks of the vectors from pixel first_x on
  bool past;         // use non-temporal stores
  float w_x[4], w_y[4];
};

// `ring` holds the four latest filtered rows.
template <Shape SHAPE, class T>
CAGC_NOINLINE void walk_rows(const Plane<T> k, float *ring, int64_t pitch) {
  int64_t oldest = k.first_y + k.begin / kOutputs<SHAPE> * kStep<SHAPE>, fresh = oldest;
  for (int64_t o = k.begin; o < k.end; o += kOutputs<SHAPE>, oldest += kStep<SHAPE>) {
    for (; fresh < oldest + kDepth<SHAPE>; fresh++) {
      float *to = ring + (fresh & 3) * pitch;
      if (fresh < 0 || fresh >= k.in_h) std::fill_n(to, pitch, 0.f);
      else filter_row<SHAPE>(k.x + fresh * k.stride + k.first_x, k.mask, k.w_x, to, k.out_w);
    }
    const float *h[4];
    for (int j = 0; j < 4; j++) h[j] = ring + ((oldest + j) & 3) * pitch;
    T *out = k.out + o * k.out_w;
    combine_rows<SHAPE>(k.w_y, h, out, k.out_w, k.past);
    if (SHAPE == Shape::up2 && o + 1 < k.end) combine_rows<SHAPE>(k.w_y + 2, h + 1, out + k.out_w, k.out_w, k.past);
  }
}

// A block of output rows, and the rows of x that they depend on.
template <Shape SHAPE, class T> struct Block {
  static constexpr int kOut = kRows<SHAPE>, kIn = SHAPE == Shape::up2 ? kOut / 2 + 2 : (kOut - 1) * kStep<SHAPE> + 4;
  const T *x;           // the sample
  T *out;               // pixel 0 of the first row
  // Offsets and masks of the rows of x. A row outside the image has an empty mask and the offset of an existing row,
  // because a masked load from an unmapped page costs as much as a hundred other loads.
  int64_t offset[kIn];
  Mask in_row[kIn];
  int64_t out_stride, rows, in_w, out_w, first, inner;
  bool past;  // use non-temporal stores
  float w_x[4], w_y[4];
};

// The vertical filter: computes the lanes `m` of one vector at x for each row of the block.
template <Shape SHAPE, class T>
CAGC_INLINE void rows_at(const Block<SHAPE, T> &b, const T *x, Mask m, Floats16 *v) {
  constexpr int step = kStep<SHAPE>;
  Floats16 in[Block<SHAPE, T>::kIn];
#pragma GCC unroll 8
  for (int i = 0; i < b.kIn; i++) in[i] = load(m & b.in_row[i], x + b.offset[i]);
#pragma GCC unroll 4
  for (int r = 0; r < b.kOut; r++) {
    if constexpr (SHAPE == Shape::up2) v[r] = sum2(b.w_y + r % 2 * 2, in[(r + 1) / 2], in[(r + 1) / 2 + 1]);
    else v[r] = sum4(b.w_y, in[r * step], in[r * step + 1], in[r * step + 2], in[r * step + 3]);
  }
}

// Computes a block of rows of channels_last pixels. `ring` holds the four latest vertically filtered pixels,
// [4, kOut, pitch].
template <Shape SHAPE, class T>
CAGC_NOINLINE void walk_pixels(const Block<SHAPE, T> k, float *ring, int64_t pitch) {
  constexpr int n = k.kOut;
  for (int64_t o = 0, fresh = k.first, oldest = k.first; o < k.out_w; o += kOutputs<SHAPE>, oldest += kStep<SHAPE>) {
    for (; fresh < oldest + kDepth<SHAPE>; fresh++) {
      float *to = ring + (fresh & 3) * n * pitch;
      if (fresh < 0 || fresh >= k.in_w) {
        std::fill_n(to, n * pitch, 0.f);
        continue;
      }
      for (int64_t c = 0; c < k.inner; c += kLanes) {
        Floats16 v[n];
        rows_at(k, k.x + fresh * k.inner + c, lanes(c, k.inner), v);
#pragma GCC unroll 4
        for (int r = 0; r < n; r++) _mm512_store_ps(to + r * pitch + c, v[r]);
      }
    }
    const float *h[4];
    for (int j = 0; j < 4; j++) h[j] = ring + ((oldest + j) & 3) * n * pitch;
    for (int r = 0; r < k.rows; r++) {
      const float *row[4] = {h[0] + r * pitch, h[1] + r * pitch, h[2] + r * pitch, h[3] + r * pitch};
      T *out = k.out + r * k.out_stride + o * k.inner;
      combine_rows<SHAPE>(k.w_x, row, out, k.inner, k.past);
      if (SHAPE != Shape::up2 || o + 1 == k.out_w) continue;
      combine_rows<SHAPE>(k.w_x + 2, row + 1, out + k.inner, k.inner, k.past);
    }
  }
}

template <class T> int64_t out_bytes(const Upfirdn2d &p) { return p.n * p.c * p.inner * p.out_h * p.out_w * sizeof(T); }

// Computes blocks [begin, end) of rows, counted over all samples from the top.
template <Shape SHAPE, class T> void samples(const Upfirdn2d &p, const Fir4 &f, int64_t begin, int64_t end) {
  Block<SHAPE, T> k{};
  const int64_t blocks = (p.out_h + k.kOut - 1) / k.kOut, pitch = round_up(p.inner, kLanes);
  k.out_stride = p.out_w * p.inner, k.in_w = p.in_w, k.out_w = p.out_w, k.first = f.first_x, k.inner = p.inner;
  k.past = streams(out_bytes<T>(p));
  std::copy_n(f.x, 4, k.w_x);
  std::copy_n(f.y, 4, k.w_y);
  const Buffer ring(4 * k.kOut * pitch);
  for (int64_t i = begin; i < end; i++) {
    const int64_t sample = i / blocks, row = i % blocks * k.kOut;
    const int64_t in_row = f.first_y + row * kStep<SHAPE> / kOutputs<SHAPE>;
    for (int64_t r = 0; r < k.kIn; r++) {
      const bool exists = in_row + r >= 0 && in_row + r < p.in_h;
      k.in_row[r] = exists ? kAll : 0, k.offset[r] = exists ? (in_row + r) * p.stride_h : 0;
    }
    k.rows = std::min<int64_t>(k.kOut, p.out_h - row);
    k.x = static_cast<const T *>(p.x) + sample * p.stride_n;
    k.out = static_cast<T *>(p.out) + (sample * p.out_h + row) * k.out_stride;
    walk_pixels(k, ring.data(), pitch);
  }
  if (k.past) end_stream();
}

// Computes blocks [begin, end) of rows, counted over all planes from the top.
template <Shape SHAPE, class T> void planes(const Upfirdn2d &p, const Fir4 &f, int64_t begin, int64_t end) {
  Plane<T> k{};
  const int64_t blocks = (p.out_h + kRows<SHAPE> - 1) / kRows<SHAPE>, pitch = round_up(p.out_w, 2 * kLanes);
  k.stride = p.stride_h, k.in_h = p.in_h, k.out_w = p.out_w, k.first_x = f.first_x, k.first_y = f.first_y;
  k.past = streams(out_bytes<T>(p));
  std::copy_n(f.x, 4, k.w_x);
  std::copy_n(f.y, 4, k.w_y);
  std::vector<Mask> mask(2 * pitch / kLanes + 1);
  for (size_t v = 0; v < mask.size(); v++) mask[v] = lanes(f.first_x + static_cast<int64_t>(v) * kLanes, p.in_w);
  k.mask = mask.data();
  const Buffer ring(4 * pitch);
  while (begin < end) {
    const int64_t plane = begin / blocks, last = std::min(end, (plane + 1) * blocks);
    k.begin = begin % blocks * kRows<SHAPE>, k.end = std::min(p.out_h, (last - plane * blocks) * kRows<SHAPE>);
    k.x = static_cast<const T *>(p.x) + plane / p.c * p.stride_n + plane % p.c * p.stride_c;
    k.out = static_cast<T *>(p.out) + plane * p.out_h * p.out_w;
    walk_rows<SHAPE>(k, ring.data(), pitch);
    begin = last;
  }
  if (k.past) end_stream();
}

template <Shape SHAPE, class T> void threads_over(const Upfirdn2d &p, const Fir4 &f, int threads) {
  const int64_t blocks = p.n * p.c * ((p.out_h + kRows<SHAPE> - 1) / kRows<SHAPE>);
  const int64_t numel = p.n * p.c * p.inner * std::max(p.in_h * p.in_w, p.out_h * p.out_w);
  const int64_t team = std::max<int64_t>(1, std::min<int64_t>(threads, numel / kGrain));
  const auto run = p.inner == 1 ? planes<SHAPE, T> : samples<SHAPE, T>;
  if (team == 1) return run(p, f, 0, blocks);
#pragma omp parallel num_threads(team)
  {
    const int64_t t = omp_get_thread_num(), n = omp_get_num_threads();
    run(p, f, blocks * t / n, blocks * (t + 1) / n);
  }
}

template <class T> void run(const Upfirdn2d &p, const Fir4 &f, int threads) {
  switch (f.shape) {
    case Shape::same4: return threads_over<Shape::same4, T>(p, f, threads);
    case Shape::up2: return threads_over<Shape::up2, T>(p, f, threads);
    case Shape::down2: return threads_over<Shape::down2, T>(p, f, threads);
    case Shape::general: return;
  }
}

}  // namespace

bool CAGC_LEVEL::upfirdn2d_avx512(const Upfirdn2d &p, const Fir4 &f, int threads) {
  switch (p.dtype) {
    case DType::float32: run<float>(p, f, threads); return true;
    case DType::float16: run<half_t>(p, f, threads); return true;
    case DType::bfloat16: run<bfloat_t>(p, f, threads); return true;
    case DType::float64: return false;
  }
  return false;
}

}  // namespace cagc
#else
namespace cagc {
bool CAGC_LEVEL::upfirdn2d_avx512(const Upfirdn2d &, const Fir4 &, int) { return false; }
}  // namespace cagc
#endif
