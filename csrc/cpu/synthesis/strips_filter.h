// The FIR filter after a transposed convolution and the layer's epilogue, for layers in strips.
#pragma once
#include "strips.h"

namespace cagc {
namespace {

// One channel of N rows of y, which are next to each other in a sample.
template <int N> struct FilterRows {
  const float *t[N + 3];
  float *y[N];
  const float *noise[N];
  float behind[N];  // the vertically filtered columns behind the last one
  float demod, bias, next;
};

// A weighted sum of four vectors. Pairs with the same weight are added first: additions have units of their own on some
// processors.
template <bool Symmetric> CAGC_INLINE vec<kWide> weighted(const vec<kWide> *v, const float *f) {
  if (Symmetric) return (v[0] + v[3]) * f[0] + (v[1] + v[2]) * f[1];
  return v[0] * f[0] + v[1] * f[1] + v[2] * f[2] + v[3] * f[3];
}

template <int N, bool Symmetric>
CAGC_NOINLINE void filter_channel(const ConvJob &job, const FilterRows<N> &of) {
  constexpr int W = kWide;
  const int64_t r = job.conv->resolution;
  const float *const f = job.fir, g[] = {f[0] * of.demod, f[1] * of.demod, f[2] * of.demod, f[3] * of.demod};
  const vec<W> bias = broadcast<W>(of.bias), next = broadcast<W>(of.next);
  const vec<W> clamp = broadcast<W>(job.clamp);
  const auto column = [&](int64_t j, vec<W> *v) CAGC_LAMBDA {
    vec<W> t[N + 3];
    CAGC_UNROLL
    for (int k = 0; k < N + 3; k++) t[k] = load<W>(of.t[k] + j);
    CAGC_UNROLL
    for (int i = 0; i < N; i++) v[i] = weighted<Symmetric>(t + i, f);
  };
  vec<W> a[N], b[N], c[N], d[N], first[N], second[N];  // `first`, `second`: the columns behind the strips
  column(r - W, a), column(0, b), column(W, c);
  CAGC_UNROLL
  for (int i = 0; i < N; i++) {
    a[i] = from_left(a[i]), first[i] = from_right(b[i]), second[i] = from_right(c[i]);
    first[i][W - 1] = of.behind[i];
  }
  const auto finish = [&](int64_t j, const vec<W> *d) CAGC_LAMBDA {
    CAGC_UNROLL
    for (int i = 0; i < N; i++) {
      const vec<W> window[] = {a[i], b[i], c[i], d[i]};
      const vec<W> u = weighted<Symmetric>(window, g) + (bias + load<W>(of.noise[i] + j));
      store<W>(of.y[i] + j, activate<W>(u, clamp) * next);
      a[i] = b[i], b[i] = c[i], c[i] = d[i];
    }
  };
  for (int64_t j = 0; j < r - 2 * W; j += W) column(j + 2 * W, d), finish(j, d);
  finish(r - 2 * W, first), finish(r - W, second);
}

// Rows [at, at + N) of y, counted through the batch and all in one sample.
template <int N> void filter_rows_of_strips(const ConvJob &job, int64_t at, float *scratch) {
  const int64_t out = job.conv->out, r = job.conv->resolution, width = r / kWide, pitch = channel_pitch(r);
  const int64_t n = at / r, i = at % r;
  const EpilogueInputs e(job, n);
  FilterRows<N> of{};
  const float *edge[N + 3];
  int64_t channel[N + 3];
  for (int k = 0; k < N + 3; k++) {
    const int64_t line = i - 1 + k;
    const bool inside = line >= 0 && line <= r;
    of.t[k] = inside ? t_row(job, n * job.t_rows + line) : scratch, channel[k] = inside ? pitch : 0;
    edge[k] = inside ? job.edge + (n * job.t_rows + line) * out : nullptr;
  }
  for (int k = 0; k < N; k++) {
    float *noise = scratch + (1 + k) * r;
    for (int64_t j = 0; j < width && e.noise; j += 4)
      four_of_each(e.noise + (i + k) * r + j, width, e.strength, noise + j * kWide);
    of.noise[k] = noise, of.y[k] = job.y + (at + k) % job.y_rows * strips_pitch(r, out);
  }
  const bool symmetric = job.fir[0] == job.fir[3] && job.fir[1] == job.fir[2];
  const auto channel_of = symmetric ? filter_channel<N, true> : filter_channel<N, false>;
  for (int64_t c = 0; c < out; c++) {
    of.demod = e.demod[c], of.bias = e.bias[c], of.next = e.next[c];
    for (int k = 0; k < N; k++) {
      of.behind[k] = 0;
      for (int x = 0; x < 4; x++) of.behind[k] += edge[k + x] ? edge[k + x][c] * job.fir[x] : 0.f;
    }
    channel_of(job, of);
    for (int k = 0; k < N + 3; k++) of.t[k] += channel[k];
    for (int k = 0; k < N; k++) of.y[k] += pitch;
  }
}

// Two rows at a time: they share the loads of three rows of t.
void filter_strips(const ConvJob &job, int64_t begin, int64_t end, float *scratch) {
  const int64_t r = job.conv->resolution;
  zero(scratch, 3 * r);  // the rows of t outside the image, and the noise of two rows
  for (int64_t at = begin; at < end;) {
    const bool two = at + 1 < end && (at + 1) % r;
    if (two) filter_rows_of_strips<2>(job, at, scratch);
    else filter_rows_of_strips<1>(job, at, scratch);
    at += 1 + two;
  }
}

}  // namespace
}  // namespace cagc
