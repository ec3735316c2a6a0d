// The synthesis network: what is done on which part of memory by which thread. One parallel region per image: every
// worksharing loop below ends in the barrier that the next one needs.
#include "cagc/synthesis.h"
#include "synthesis/products.h"
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <omp.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cagc {
namespace {

constexpr float kGain = 1.41421356237309515f;  // of leaky ReLU
constexpr float kEpsilon = 1e-8f;

int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

// In floats. A thread has blocks of its own, in its L2 cache, as long as the weights come out of the L3 cache: with 12
// rows a matrix product reaches its peak from there (Zen 4, 114 GFLOP/s a core; 4 to 48 tiles are within 5 % of it).
// Larger weights are read once, for blocks that all threads share.
constexpr int64_t kPrivateWeights = 3 << 20, kSharedBlock = 4 << 20, kTransposed = 256 << 10;
constexpr int64_t kTiles = 12;

struct LayerPlan {
  bool shared;
  int64_t tiles;  // per block, but for rounding
  int64_t band;   // tile rows, counted through the batch, between two barriers
  int64_t ring;   // rows of t
  int64_t styles, squares, demod, rgb_styles, rgb_weight;  // offsets in the workspace
};

LayerPlan plan_of(const StyledConv &c, int64_t batch, int threads) {
  LayerPlan p{};
  const int64_t side = side_of(c), rows = side * batch;
  const int64_t tile = v_floats(c, 1) + m_floats(c, 1) - 72 * kPointPad;
  p.shared = weight_floats(c) > kPrivateWeights;
  const int64_t fit = std::max<int64_t>(1, kSharedBlock / tile);
  p.band = rows;
  if (c.up == 2) {
    const int64_t t_row = t_rows_of(c) * side * t_rows_of(c) * c.out;
    const int64_t band = p.shared ? fit / side : threads * kTransposed / t_row;
    p.band = std::clamp<int64_t>(band, 1, rows);
    p.ring = std::min(rows, p.band + 2) * t_rows_of(c);
  }
  const int64_t count = p.band * side;
  const bool pixels = c.algorithm == Algorithm::direct3 || c.algorithm == Algorithm::transposed2;
  p.tiles = std::min(count, p.shared ? std::max<int64_t>(fit, 4) : pixels ? 4 * kTiles : kTiles);
  return p;
}

int64_t most(const LayerPlan &p) { return p.tiles + 3; }  // tiles of a block, rounded to whole fours

// The threads of a parallel region.
class Team {
 public:
  explicit Team(int threads) : shares_(threads) {}

  // As a dynamic `omp for`, with its barrier, but a thread begins with a share of its own, and takes from the others'
  // when that is done: it reads what it wrote before, and lines that another core wrote are dear, above all on
  // another die.
  template <class F> void each(int64_t count, F &&body) {
    const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
    Share &own = shares_[thread];
    const int turn = own.loops++ % 2;
    for (int64_t k = 0; k < threads; k++) {
      const int64_t t = (thread + k) % threads, begin = count * t / threads, end = count * (t + 1) / threads;
      for (int64_t i; (i = begin + shares_[t].taken[turn].fetch_add(1, std::memory_order_relaxed)) < end;) body(i);
    }
#pragma omp barrier
    own.taken[turn] = 0;  // nobody looks at it before the barrier of the next loop
  }

 private:
  struct alignas(64) Share {
    std::atomic<int64_t> taken[2] = {};
    int64_t loops = 0;
  };
  std::vector<Share> shares_;
};

}  // namespace

struct Synthesis::State {
  std::vector<StyledConv> convs;
  Mapping mapping;
  const float *constant;
  int64_t style_dim;
  float fir[4], clamp;
  const Kernels &kernels;
  int64_t batch;
  int threads;

  std::vector<LayerPlan> plans;
  struct Affine { int64_t layer; bool rgb; int64_t begin, end; };
  std::vector<Affine> affines;  // pieces of the affine layers
  int64_t size = 0;             // of the workspace
  int64_t x[2], rgb[2], t, block, block_size, scratch, scratch_size, hidden[2];

  int64_t take(int64_t floats) {
    const int64_t at = size;
    size += aligned(floats);
    return at;
  }
  void lay_out();
  void styles(const SynthesisCall &) const;
  void conv(int64_t layer, const ConvJob &, float *workspace, Team &) const;
  void multiply(const ConvJob &, const Block &, int64_t begin, int64_t end) const;
  void blocks(const ConvJob &, const LayerPlan &, int64_t first, int64_t count, float *workspace, Team &) const;
  void skip(const StyledConv &, const float *below, float *rgb, float *scratch) const;
  ConvJob job(int64_t layer, const SynthesisCall &) const;
};

void Synthesis::State::lay_out() {
  int64_t activations = 0, images = 0, rows = 0;
  block_size = scratch_size = 0;
  for (size_t l = 0; l < convs.size(); l++) {
    const StyledConv &c = convs[l];
    LayerPlan p = plan_of(c, batch, threads);
    p.styles = take(batch * c.in), p.squares = take(batch * c.in), p.demod = take(batch * c.out);
    const auto pieces = [&](int64_t columns, bool rgb_affine) {
      for (int64_t i = 0, n = kernels.panels(columns); i < n; i += 2)
        affines.push_back({static_cast<int64_t>(l), rgb_affine, i, std::min(n, i + 2)});
    };
    pieces(c.in, false);
    if (c.rgb_weight) {
      p.rgb_styles = take(batch * c.out), p.rgb_weight = take(batch * 3 * c.out);
      pieces(c.out, true);
    }
    const int64_t size = c.resolution / c.up, pixels = c.resolution * c.resolution;
    activations = std::max(activations, batch * size * pitch(size, c.in));
    if (l + 1 < convs.size()) images = std::max(images, batch * 3 * pixels);
    const int64_t v_and_m = aligned(v_floats(c, most(p))) + aligned(m_floats(c, most(p)));
    block_size = std::max(block_size, v_and_m * (p.shared ? 1 : threads));
    rows = std::max(rows, p.ring * t_rows_of(c) * side_of(c) * c.out);
    const int64_t strip = 2 * (std::max<int64_t>(kStrip / c.out, 8) + 3) * c.out;
    scratch_size = std::max({scratch_size, 36 * c.in, 16 * c.out, strip, c.resolution + 2});
    plans.push_back(p);
  }
  scratch_size = aligned(scratch_size);
  x[0] = take(activations), x[1] = take(activations);
  rgb[0] = take(images), rgb[1] = take(images);
  t = take(rows);
  block = take(block_size), scratch = take(scratch_size * threads);
  for (int64_t &h : hidden) h = take(batch * (mapping.features + kLanes));
}

void Synthesis::State::styles(const SynthesisCall &call) const {
#pragma omp for schedule(dynamic)
  for (size_t i = 0; i < affines.size(); i++) {
    const Affine &a = affines[i];
    const StyledConv &c = convs[a.layer];
    const LayerPlan &p = plans[a.layer];
    const int64_t columns = a.rgb ? c.out : c.in;
    kernels.gemm(call.ws + (a.rgb ? c.rgb_w : c.w) * call.w_layer, call.w_sample, batch, style_dim,
                 a.rgb ? c.rgb_affine : c.affine, columns, a.begin, a.end,
                 call.workspace + (a.rgb ? p.rgb_styles : p.styles), columns);
  }
#pragma omp for schedule(dynamic)
  for (size_t l = 0; l < convs.size(); l++) {
    const StyledConv &c = convs[l];
    const LayerPlan &p = plans[l];
    float *s = call.workspace + p.styles, *squares = call.workspace + p.squares, *d = call.workspace + p.demod;
    for (int64_t i = 0; i < batch * c.in; i++) s[i] += c.affine_bias[i % c.in], squares[i] = s[i] * s[i];
    kernels.gemm(squares, c.in, batch, c.in, c.energy, c.out, 0, kernels.panels(c.out), d, c.out);
    for (int64_t i = 0; i < batch * c.out; i++) d[i] = kGain / std::sqrt(d[i] + kEpsilon);
    for (int64_t n = 0; c.rgb_weight && n < batch; n++)
      for (int64_t i = 0; i < c.out; i++) {
        const float style = call.workspace[p.rgb_styles + n * c.out + i] + c.rgb_affine_bias[i];
        for (int64_t k = 0; k < 3; k++)
          call.workspace[p.rgb_weight + (n * 3 + k) * c.out + i] = style * c.rgb_weight[k * c.out + i];
      }
  }
  const int64_t in = convs[0].in;
#pragma omp for
  for (int64_t i = 0; i < batch * 16; i++) {
    const float *from = constant + i % 16 * in, *s = call.workspace + plans[0].styles + i / 16 * in;
    float *to = call.workspace + x[0] + i / 4 * pitch(4, in) + i % 4 * in;
    for (int64_t c = 0; c < in; c++) to[c] = from[c] * s[c];
  }
}

void Synthesis::State::multiply(const ConvJob &job, const Block &b, int64_t begin, int64_t end) const {
  const StyledConv &c = *job.conv;
  const int64_t panels = kernels.panels(c.out);
  for (int64_t i = begin; i < end;) {
    const Product p = product_of(c, i / panels);
    const int64_t first = i % panels, last = std::min(panels, first + end - i);
    const float *v = b.v + p.v * b.count * c.in + p.v_offset;
    float *m = b.m + p.m * b.count * c.out + p.m_offset;
    kernels.gemm(v, p.lda, p.mult * b.count, p.k, c.weight + p.weight * c.out, c.out, first, last, m, c.out);
    i += last - first;
  }
}

// Tiles [first, first + count): a barrier at the end.
void Synthesis::State::blocks(const ConvJob &job, const LayerPlan &p, int64_t first, int64_t count,
                              float *workspace, Team &team) const {
  const StyledConv &c = *job.conv;
  const int64_t units = product_count(c.algorithm) * kernels.panels(c.out);
  // As even as can be, and as many private blocks for every thread. Four rows are multiplied at a time, and F(4x4, 3x3)
  // has a row per tile: whole fours, unless there are so few that threads would wait for each other.
  const int64_t whole = p.shared ? 1 : threads, parts = (count + p.tiles - 1) / p.tiles;
  const int64_t number = std::min(count, (parts + whole - 1) / whole * whole);
  const int64_t unit = c.up == 1 && (c.algorithm == Algorithm::direct3 || count >= 8 * number) ? 4 : 1;
  const int64_t v_size = aligned(v_floats(c, most(p))), thread = omp_get_thread_num();
  float *here = workspace + scratch + thread * scratch_size;
  float *v = workspace + block + (p.shared ? 0 : thread * (v_size + aligned(m_floats(c, most(p)))));
  const auto begin = [&](int64_t i) {
    return i == number ? count : (count * i / number + unit / 2) / unit * unit;
  };
  const auto block_of = [&](int64_t i) { return Block{first + begin(i), begin(i + 1) - begin(i), v, v + v_size}; };
  if (!p.shared) {
    return team.each(number, [&](int64_t i) {
      const Block b = block_of(i);
      kernels.input(job, b, 0, b.count, here);
      multiply(job, b, 0, units);
      kernels.output(job, b, 0, b.count, here);
    });
  }
  for (int64_t i = 0; i < number; i++) {
    const Block b = block_of(i);
    const int64_t step = b.count >= 64 ? 8 : c.algorithm == Algorithm::direct3 ? 4 : 1;
#pragma omp for schedule(dynamic)
    for (int64_t j = 0; j < b.count; j += step) kernels.input(job, b, j, std::min(j + step, b.count), here);
#pragma omp for schedule(dynamic)
    for (int64_t j = 0; j < units; j++) multiply(job, b, j, j + 1);
#pragma omp for schedule(dynamic)
    for (int64_t j = 0; j < b.count; j += step) kernels.output(job, b, j, std::min(j + step, b.count), here);
  }
}

void Synthesis::State::conv(int64_t layer, const ConvJob &job, float *workspace, Team &team) const {
  const StyledConv &c = *job.conv;
  const LayerPlan &p = plans[layer];
  const int64_t rows = job.side * batch, r = c.resolution, step = t_rows_of(c);
  float *here = workspace + scratch + omp_get_thread_num() * scratch_size;
  int64_t done = 0;
  for (int64_t row = 0; row < rows; row += p.band) {
    const int64_t end = std::min(rows, row + p.band);
    blocks(job, p, row * job.side, (end - row) * job.side, workspace, team);
    if (c.up == 1) continue;
    // Output row i of sample n reads rows i - 1 to i + 2 of t, of which the last sample's are below `end` so far.
    const int64_t last = (end - 1) / job.side, local = (end - last * job.side) * step;
    const int64_t ready = last * r + std::clamp<int64_t>(local >= r + 1 ? r : local - 2, 0, r);
    team.each((ready - done + 3) / 4, [&](int64_t i) {
      kernels.filter(job, done + i * 4, std::min(done + i * 4 + 4, ready), here);
    });
    done = ready;
  }
}

void Synthesis::State::skip(const StyledConv &c, const float *below, float *rgb, float *here) const {
  const int64_t r = c.resolution, h = r / 2, rows = std::min<int64_t>(r, 32), pieces = r / rows;
#pragma omp for schedule(static)
  for (int64_t i = 0; i < batch * 3 * pieces; i++) {
    const int64_t plane = i / pieces, begin = i % pieces * rows;
    kernels.skip(below ? below + plane * h * h : nullptr, h, fir, begin, begin + rows, rgb + plane * r * r, here);
  }
}

ConvJob Synthesis::State::job(int64_t layer, const SynthesisCall &call) const {
  const StyledConv &c = convs[layer];
  const LayerPlan &p = plans[layer];
  const bool last = layer + 1 == static_cast<int64_t>(convs.size());
  float *w = call.workspace;
  ConvJob job{};
  job.conv = &c, job.x = w + x[layer % 2], job.demod = w + p.demod;
  if (!last) job.y = w + x[1 - layer % 2], job.next = w + plans[layer + 1].styles;
  job.noise = call.noise[layer], job.noise_sample = call.noise_sample[layer];
  if (c.rgb_weight) job.rgb_weight = w + p.rgb_weight;
  job.t = w + t, job.ring = std::max<int64_t>(1, p.ring), job.fir = fir, job.clamp = clamp;
  job.size = c.resolution / c.up, job.side = side_of(c), job.tiles = job.side * job.side;
  return job;
}

Synthesis::Synthesis(std::vector<StyledConv> convs, Mapping mapping, const float *constant, int64_t style_dim,
                     const float *fir, float clamp, const Kernels &kernels, int64_t batch, int threads) {
  auto *state = new State{std::move(convs), std::move(mapping), constant, style_dim, {fir[0], fir[1], fir[2], fir[3]},
                          clamp, kernels, batch, threads, {}, {}, 0, {}, {}, 0, 0, 0, 0, 0, {}};
  state_.reset(state);
  state->lay_out();
}

Synthesis::~Synthesis() = default;

size_t Synthesis::layers() const { return state_->convs.size(); }

int64_t Synthesis::workspace() const { return state_->size; }

void Synthesis::run(const SynthesisCall &call) const {
  const State &s = *state_;
  const int64_t count = static_cast<int64_t>(s.convs.size());
  Team team(s.threads);
#pragma omp parallel num_threads(s.threads)
  {
    const bool timed = call.seconds && omp_get_thread_num() == 0;
    float *here = call.workspace + s.scratch + omp_get_thread_num() * s.scratch_size;
    const float *below = nullptr;
    double start = omp_get_wtime();
    const auto lap = [&](int64_t i) {
      const double now = omp_get_wtime();
      if (timed) call.seconds[i] = now - start;
      start = now;
    };
    s.styles(call);
    lap(0);
    for (int64_t l = 0, images = 0; l < count; l++) {
      ConvJob job = s.job(l, call);
      if (job.rgb_weight) {
        job.rgb = l + 1 == count ? call.image : call.workspace + s.rgb[images++ % 2];
        s.skip(*job.conv, below, job.rgb, here);
        below = job.rgb;
      }
      s.conv(l, job, call.workspace, team);
      lap(1 + l);
    }
  }
}

void Synthesis::map(const float *z, float *w, float *workspace) const {
  const State &s = *state_;
  const int64_t f = s.mapping.features, count = static_cast<int64_t>(s.mapping.layers.size());
  const auto buffer = [&](int64_t i) { return i == count ? w : workspace + s.hidden[i % 2]; };
#pragma omp parallel num_threads(s.threads)
  {
#pragma omp for
    for (int64_t n = 0; n < s.batch; n++) {
      const float *from = z + n * s.style_dim;
      float *to = buffer(0) + n * f, squares = 0;
      for (int64_t i = 0; i < s.style_dim; i++) squares += from[i] * from[i];
      const float scale = 1 / std::sqrt(squares / static_cast<float>(s.style_dim) + kEpsilon);
      for (int64_t i = 0; i < s.style_dim; i++) to[i] = from[i] * scale;
    }
    for (int64_t i = 0; i < count; i++) {
      const Mapping::Layer &layer = s.mapping.layers[i];
      float *out = buffer(i + 1);
#pragma omp for
      for (int64_t p = 0; p < s.kernels.panels(f); p++)
        s.kernels.gemm(buffer(i), f, s.batch, s.style_dim, layer.weight, f, p, p + 1, out, f);
#pragma omp for
      for (int64_t n = 0; n < s.batch; n++)
        for (int64_t j = 0; j < f; j++) {
          const float u = out[n * f + j] + layer.bias[j];
          out[n * f + j] = u > 0 ? u : 0.2f * u;
        }
    }
  }
}

void prefer_huge_pages(void *memory, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

std::vector<const char *> instruction_sets() {
  std::vector<const char *> names;
#if defined(CAGC_X86_LEVELS)
  if (__builtin_cpu_supports("x86-64-v4")) names.push_back("v4");
  if (__builtin_cpu_supports("x86-64-v3")) names.push_back("v3");
#endif
  names.push_back("generic");
  return names;
}

const Kernels *find_kernels(const char *instructions) {
  for (const char *name : instruction_sets()) {
    if (std::strcmp(name, instructions)) continue;
#if defined(CAGC_X86_LEVELS)
    if (!std::strcmp(name, "v4")) return &kernels_v4;
    if (!std::strcmp(name, "v3")) return &kernels_v3;
#endif
    return &kernels_generic;
  }
  return nullptr;
}

void pack_matrix(const Kernels &kernels, const float *matrix, int64_t k, int64_t columns, float *packed) {
  kernels.pack(matrix, k, columns, packed);
}

}  // namespace cagc
