// The driver of the synthesis network: it divides work and workspace among threads. There is one parallel region per
// image, and every shared loop below (Member::each) ends in the barrier that the next one needs.
#include "cagc/synthesis.h"
#include "synthesis/layer_plan.h"
#include "synthesis/team.h"
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace cagc {
namespace {

constexpr float kGain = 1.41421356237309515f;  // of leaky ReLU
constexpr float kEpsilon = 1e-8f;

int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

}  // namespace

struct Synthesis::State : SynthesisNetwork {
  const Kernels &kernels;
  const int64_t batch;
  const int threads;

  std::vector<LayerPlan> plans;
  struct Affine { int64_t layer; bool rgb; int64_t begin, end; };
  std::vector<Affine> affines;  // the affine layers, each divided into ranges of panels
  int64_t size = 0;             // of the workspace
  int64_t x[2] = {}, rgb[2] = {}, t = 0, block = 0, block_size = 0, scratch = 0, scratch_size = 0, hidden[2] = {};
  int64_t w = 0, w_truncated = 0;
  int64_t t_size = 0, rows = 0, rows_size = 0;  // per thread: t, and the rows of y between paired layers
  mutable Team team;
  mutable Pace pace, mapping_pace;

  State(SynthesisNetwork network, const Kernels &kernels, int64_t batch, int threads)
      : SynthesisNetwork(std::move(network)), kernels(kernels), batch(batch), threads(threads), team(threads) {
    lay_out();
  }

  int64_t take(int64_t floats) {
    const int64_t at = size;
    size += aligned(floats);
    return at;
  }
  bool enters_strips(size_t layer) const { return layer && convs[layer].strips > 1 && convs[layer - 1].strips == 1; }
  // Whether a layer and the next one run together.
  bool paired(size_t layer) const { return convs[layer].strips > 1 && convs[layer].up == 2; }
  int64_t panels_of(const StyledConv &c) const {
    return c.strips > 1 ? kernels.row_blocks(c.out) : kernels.panels(c.out);
  }
  void lay_out();
  // data: of sample n, layer l at data + n * sample + l * layer; layers from `cutoff` on read `rest` where it is given.
  struct Ws {
    const float *data;
    int64_t sample, layer;
    const float *rest;
    int64_t cutoff;
    const float *of(int64_t l) const { return rest && l >= cutoff ? rest : data + l * layer; }
  };
  void map(const float *z, float *w, float *workspace, Member) const;
  Ws ws_of(const SynthesisCall &, Member) const;
  void styles(const Ws &, float *workspace, Member) const;
  void conv(const ConvJob &, const LayerPlan &, float *workspace, Member) const;
  void own_blocks(const ConvJob &, const LayerPlan &, int64_t first, int64_t count, float *workspace,
                  int64_t thread) const;
  void segment(ConvJob, ConvJob, int64_t layer, int64_t n, int64_t begin, int64_t end, float *workspace,
               int64_t thread, Clock &) const;
  void pair(int64_t layer, const ConvJob &, const ConvJob &, float *workspace, Member, Clock &) const;
  void multiply(const ConvJob &, const Block &, int64_t begin, int64_t end) const;
  void blocks(const ConvJob &, const LayerPlan &, int64_t first, int64_t count, float *workspace, Member) const;
  void skip(const StyledConv &, const float *below, float *rgb, float *scratch, Member) const;
  ConvJob job(int64_t layer, const SynthesisCall &) const;
};

void Synthesis::State::lay_out() {
  int64_t activations = 0, images = 0, t_floats = 0, row_floats = 0, buffer = 0;
  for (size_t l = 0; l < convs.size(); l++) {
    const StyledConv &c = convs[l];
    LayerPlan p = plan_of(c, batch, threads);
    p.styles = take(batch * c.in_padded), p.squares = take(batch * c.in_padded);
    p.demod = take(batch * c.out_padded);
    const auto pieces = [&](int64_t columns, bool rgb_affine) {
      for (int64_t i = 0, n = kernels.dense_panels(columns); i < n; i += 2)
        affines.push_back({static_cast<int64_t>(l), rgb_affine, i, std::min(n, i + 2)});
    };
    pieces(c.in_padded, false);
    if (c.rgb_weight) {
      p.rgb_styles = take(batch * c.out_padded), p.rgb_weight = take(batch * 3 * c.out_padded);
      pieces(c.out_padded, true);
    }
    const int64_t size = c.resolution / c.up, pixels = c.resolution * c.resolution;
    const bool strips = c.strips > 1, enters = enters_strips(l);
    const int64_t x_row = strips && !enters ? strips_pitch(size, c.in) : pitch(size, c.in_padded);
    if (l && paired(l - 1)) {
      row_floats = std::max(row_floats, kRing * x_row);
    } else {
      activations = std::max(activations, batch * size * x_row);
      p.x = buffer, buffer = 1 - buffer;
    }
    if (enters) p.strips = take(batch * size * strips_pitch(size, c.in));
    if (l + 1 < convs.size()) images = std::max(images, batch * 3 * pixels);
    const int64_t v_and_m = aligned(v_floats(c, most(c, p))) + aligned(m_floats(c, most(c, p)));
    block_size = std::max(block_size, v_and_m * (p.shared ? 1 : threads));
    t_floats = std::max(t_floats, p.ring * t_row_of(c) * (strips ? threads : 1));
    scratch_size = std::max(scratch_size, scratch_of(c));
    if (strips && c.up == 2) p.edge = take(batch * tile_rows_of(c) * t_rows_of(c) * c.out);
    plans.push_back(p);
  }
  scratch_size = aligned(scratch_size);
  x[0] = take(activations), x[1] = take(activations);
  rgb[0] = take(images), rgb[1] = take(images);
  t = take(t_floats), t_size = t_floats / threads / 16 * 16;
  rows_size = aligned(row_floats), rows = take(rows_size * threads);
  block = take(block_size), scratch = take(scratch_size * threads);
  for (int64_t *p : {&w, &w_truncated}) *p = take(batch * mapping.features);
  hidden[1] = aligned(batch * (mapping.features + kLanes));  // of map(), before the styles use this memory
  size = std::max(size, 2 * hidden[1]);
}

void Synthesis::State::map(const float *z, float *w, float *workspace, Member member) const {
  const int64_t f = mapping.features, count = static_cast<int64_t>(mapping.layers.size());
  const auto buffer = [&](int64_t i) { return i == count ? w : workspace + hidden[i % 2]; };
  member.each(batch, [&](int64_t n) {
    const float *from = z + n * style_dim;
    float *to = buffer(0) + n * f, squares = 0;
    for (int64_t i = 0; i < style_dim; i++) squares += from[i] * from[i];
    const float scale = 1 / std::sqrt(squares / static_cast<float>(style_dim) + kEpsilon);
    for (int64_t i = 0; i < style_dim; i++) to[i] = from[i] * scale;
  });
  for (int64_t i = 0; i < count; i++) {
    DenseJob job{};
    job.layer = &mapping.layers[i], job.a = buffer(i), job.out = buffer(i + 1), job.leaky = true;
    job.rows = batch, job.k = style_dim, job.columns = job.lda = job.ldo = f;
    member.each(kernels.dense_panels(f), [&](int64_t p) { kernels.dense(job, p, p + 1); });
  }
}

// The ws of a call: those that it gives, or w of its latents, of which the first layers' are truncated.
Synthesis::State::Ws Synthesis::State::ws_of(const SynthesisCall &call, Member member) const {
  if (!call.z) return {call.ws, call.w_sample, call.w_layer, nullptr, 0};
  const int64_t f = mapping.features, last = static_cast<int64_t>(convs.size());
  float *plain = call.workspace + w, *truncated = call.workspace + w_truncated;
  map(call.z, plain, call.workspace, member);
  if (call.psi == 1) return {plain, f, 0, plain, 0};
  member.each(batch, [&](int64_t n) {
    for (int64_t i = 0; i < style_dim; i++)
      truncated[n * f + i] = call.w_avg[i] + call.psi * (plain[n * f + i] - call.w_avg[i]);
  });
  return {truncated, f, 0, plain, call.cutoff < 0 ? last + 1 : call.cutoff};
}

void Synthesis::State::styles(const Ws &ws, float *workspace, Member member) const {
  member.each(affines.size(), [&](int64_t i) {
    const Affine &a = affines[i];
    const StyledConv &c = convs[a.layer];
    const LayerPlan &p = plans[a.layer];
    const int64_t columns = a.rgb ? c.out_padded : c.in_padded;
    DenseJob job{};
    job.layer = a.rgb ? &c.rgb_affine : &c.affine, job.a = ws.of(a.rgb ? c.rgb_w : c.w), job.lda = ws.sample;
    job.rows = batch, job.k = style_dim, job.columns = job.ldo = columns;
    job.out = workspace + (a.rgb ? p.rgb_styles : p.styles);
    kernels.dense(job, a.begin, a.end);
  });
  member.each(convs.size(), [&](int64_t l) {
    const StyledConv &c = convs[l];
    const LayerPlan &p = plans[l];
    const int64_t in = c.in_padded, out = c.out_padded;
    float *s = workspace + p.styles, *squares = workspace + p.squares, *d = workspace + p.demod;
    for (int64_t i = 0; i < batch * in; i++) squares[i] = s[i] * s[i];
    kernels.gemm(squares, in, batch, in, c.energy, out, 0, kernels.panels(out), d, out);
    for (int64_t i = 0; i < batch * out; i++) d[i] = kGain / std::sqrt(d[i] + kEpsilon);
    for (int64_t n = 0; c.rgb_weight && n < batch; n++)
      for (int64_t i = 0; i < out; i++) {
        const float style = workspace[p.rgb_styles + n * out + i];
        for (int64_t k = 0; k < 3; k++)
          workspace[p.rgb_weight + (n * 3 + k) * out + i] = style * c.rgb_weight[k * out + i];
      }
  });
  const int64_t in = convs[0].in_padded;
  member.each(batch * 16, [&](int64_t i) {
    const float *from = constant + i % 16 * in, *s = workspace + plans[0].styles + i / 16 * in;
    float *to = workspace + x[0] + i / 4 * pitch(4, in) + i % 4 * in;
    for (int64_t c = 0; c < in; c++) to[c] = from[c] * s[c];
  });
}

void Synthesis::State::multiply(const ConvJob &job, const Block &b, int64_t begin, int64_t end) const {
  const StyledConv &c = *job.conv;
  const int64_t panels = panels_of(c);
  for (int64_t i = begin; i < end;) {
    const Product p = product_of(c, i / panels);
    const int64_t first = i % panels, last = std::min(panels, first + end - i), rows = p.mult * b.count;
    const float *v = b.v + p.v * b.count * c.in * c.strips + p.v_offset, *weight = c.weight + p.weight * c.out;
    float *m = b.m + p.m * b.count * c.out * c.strips + p.m_offset;
    if (c.strips > 1) kernels.gemm_strips(v, rows, p.k, weight, c.out, first, last, m);
    else kernels.gemm(v, p.lda, rows, p.k, weight, c.out, first, last, m, c.out);
    i += last - first;
  }
}

// Computes tiles [first, first + count) of a layer that is not in strips with all threads; ends in a barrier.
void Synthesis::State::blocks(const ConvJob &job, const LayerPlan &p, int64_t first, int64_t count,
                              float *workspace, Member member) const {
  const StyledConv &c = *job.conv;
  const int64_t units = product_count(c.algorithm) * panels_of(c);
  // Blocks of nearly equal size, and the same number of private blocks for every thread. A product takes four rows at a
  // time and F(4x4, 3x3) has one row per tile, so blocks are multiples of four tiles, unless there are so few tiles
  // that threads would wait for each other.
  const int64_t whole = p.shared ? 1 : threads, parts = (count + p.tiles - 1) / p.tiles;
  const int64_t number = std::min(count, (parts + whole - 1) / whole * whole);
  const bool fours = c.up == 1 && (c.algorithm == Algorithm::direct3 || count >= 8 * number);
  const int64_t unit = fours ? 4 : 1;
  const int64_t v_size = aligned(v_floats(c, most(c, p))), thread = member.thread;
  float *here = workspace + scratch + thread * scratch_size;
  float *v = workspace + block + (p.shared ? 0 : thread * (v_size + aligned(m_floats(c, most(c, p)))));
  const auto begin = [&](int64_t i) {
    return i == number ? count : (count * i / number + unit / 2) / unit * unit;
  };
  const auto block_of = [&](int64_t i) { return Block{first + begin(i), begin(i + 1) - begin(i), v, v + v_size}; };
  if (!p.shared) {
    return member.each(number, [&](int64_t i) {
      const Block b = block_of(i);
      kernels.input(job, b, 0, b.count, here);
      multiply(job, b, 0, units);
      kernels.output(job, b, 0, b.count, here);
    });
  }
  for (int64_t i = 0; i < number; i++) {
    const Block b = block_of(i);
    const int64_t step = b.count >= 64 ? 8 : c.algorithm == Algorithm::direct3 ? 4 : 1;
    const int64_t steps = (b.count + step - 1) / step;
    const auto end = [&](int64_t j) { return std::min((j + 1) * step, b.count); };
    member.each(steps, [&](int64_t j) { kernels.input(job, b, j * step, end(j), here); });
    member.each(units, [&](int64_t j) { multiply(job, b, j, j + 1); });
    member.each(steps, [&](int64_t j) { kernels.output(job, b, j * step, end(j), here); });
  }
}

void Synthesis::State::conv(const ConvJob &job, const LayerPlan &p, float *workspace, Member member) const {
  const StyledConv &c = *job.conv;
  const int64_t tile_rows = tile_rows_of(c), rows = tile_rows * batch, r = c.resolution, step = t_rows_of(c);
  if (c.strips > 1) {  // whole rows of tiles, whose images a thread keeps
    const int64_t whole = std::max<int64_t>(1, p.tiles / job.side), pieces = (rows + whole - 1) / whole;
    return member.each(pieces, [&](int64_t i) {
      const int64_t first = i * whole, count = std::min(whole, rows - first);
      own_blocks(job, p, first * job.side, count * job.side, workspace, member.thread);
    });
  }
  float *here = workspace + scratch + member.thread * scratch_size;
  int64_t done = 0;
  for (int64_t row = 0; row < rows; row += p.band) {
    const int64_t end = std::min(rows, row + p.band);
    blocks(job, p, row * job.side, (end - row) * job.side, workspace, member);
    if (c.up == 1) continue;
    // Output row i of sample n reads rows i - 1 to i + 2 of t, of which the last sample's are below `end` so far.
    const int64_t last = (end - 1) / tile_rows, local = (end - last * tile_rows) * step;
    const int64_t ready = last * r + std::clamp<int64_t>(local >= r + 1 ? r : local - 2, 0, r);
    member.each((ready - done + 3) / 4, [&](int64_t i) {
      kernels.filter(job, done + i * 4, std::min(done + i * 4 + 4, ready), here);
    });
    done = ready;
  }
}

// Computes tiles [first, first + count) of a layer in strips on the calling thread.
void Synthesis::State::own_blocks(const ConvJob &job, const LayerPlan &p, int64_t first, int64_t count,
                                  float *workspace, int64_t thread) const {
  float *here = workspace + scratch + thread * scratch_size;
  float *v = workspace + block + thread * (block_size / threads / 16 * 16);
  float *m = v + aligned(v_floats(*job.conv, p.tiles));
  for (int64_t i = 0; i < count; i += p.tiles) {
    const Block b{first + i, std::min(p.tiles, count - i), v, m};
    kernels.input(job, b, 0, b.count, here);
    multiply(job, b, 0, product_count(job.conv->algorithm) * panels_of(*job.conv));
    kernels.output(job, b, 0, b.count, here);
  }
}

// Computes tile rows [begin, end) of the second layer of a pair, for sample n, on the calling thread, which also
// computes the rows of the first layer's output that they need: reading cache lines that another core wrote is slow,
// most of all without a shared cache. Bounds inside the image are odd, so that the first and last row of y of a part
// lie inside a row of the first layer's tiles.
void Synthesis::State::segment(ConvJob up, ConvJob job, int64_t layer, int64_t n, int64_t begin, int64_t end,
                               float *workspace, int64_t thread, Clock &clock) const {
  const int64_t r = job.size;
  float *here = workspace + scratch + thread * scratch_size;
  float *own = workspace + rows + thread * rows_size;
  up.t = workspace + t + thread * t_size;
  up.y = own, job.x = own;
  // A tile needs a row above and one below it, and row i of y rows i - 1 to i + 2 of t.
  const int64_t last_y = std::min(4 * end + 1, r), last_t = std::min(last_y + 1, r) / 8;
  int64_t done = std::max<int64_t>(4 * begin - 1, 0), tile = begin;
  for (int64_t row = done / 8; row <= last_t; row++) {
    own_blocks(up, plans[layer], n * up.tiles + row * up.side, up.side, workspace, thread);
    const int64_t ready = row == last_t ? last_y : 8 * row + 6;
    kernels.filter(up, n * r + done, n * r + ready, here);
    clock.lap(1 + layer);
    const int64_t next = ready == r ? end : std::min(end, (ready - 1) / 4);
    own_blocks(job, plans[layer + 1], n * job.tiles + tile * job.side, (next - tile) * job.side, workspace, thread);
    clock.lap(2 + layer);
    done = ready, tile = next;
  }
}

// Runs an up-sampling layer in strips and the layer after it.
void Synthesis::State::pair(int64_t layer, const ConvJob &up, const ConvJob &job, float *workspace,
                            Member member, Clock &clock) const {
  const int64_t pieces = up.size / up.conv->strips + 1;  // one row more than x has
  member.each(batch * pieces, [&](int64_t i) {
    float *here = workspace + scratch + member.thread * scratch_size;
    kernels.edge(up, i / pieces, i % pieces * up.conv->strips, here);
  });
  // Where two parts meet, one row of the first layer's tiles is computed twice.
  const int64_t tiles = job.size / 4, parts = std::min<int64_t>(threads / std::gcd<int64_t>(threads, batch), tiles / 4);
  const auto begin = [&](int64_t i) { return i == 0 ? 0 : i == parts ? tiles : tiles * i / parts | 1; };
  member.each(batch * parts, [&](int64_t i) {
    segment(up, job, layer, i / parts, begin(i % parts), begin(i % parts + 1), workspace, member.thread,
            clock);
  });
}

void Synthesis::State::skip(const StyledConv &c, const float *below, float *rgb, float *here, Member member) const {
  const int64_t r = c.resolution, h = r / 2, rows = std::min<int64_t>(r, 32), pieces = r / rows;
  member.each(batch * 3 * pieces, [&](int64_t i) {
    const int64_t plane = i / pieces, begin = i % pieces * rows;
    kernels.skip(below ? below + plane * h * h : nullptr, h, fir, begin, begin + rows, rgb + plane * r * r, here);
  });
}

ConvJob Synthesis::State::job(int64_t layer, const SynthesisCall &call) const {
  const StyledConv &c = convs[layer];
  const LayerPlan &p = plans[layer];
  const bool last = layer + 1 == static_cast<int64_t>(call.layers ? call.layers : convs.size());
  float *w = call.workspace;
  ConvJob job{};
  job.conv = &c, job.x = enters_strips(layer) ? w + p.strips : w + x[p.x], job.demod = w + p.demod;
  if (!last) job.y = w + x[plans[layer + 1].x], job.next = w + plans[layer + 1].styles;
  job.noise = call.noise[layer].data, job.noise_sample = call.noise[layer].sample;
  if (c.rgb_weight) job.rgb_weight = w + p.rgb_weight;
  job.x_rows = layer && paired(layer - 1) ? kRing : batch * c.resolution / c.up;
  job.y_rows = paired(layer) ? kRing : batch * c.resolution;
  job.t = w + t, job.ring = std::max<int64_t>(1, p.ring), job.fir = fir, job.clamp = clamp;
  job.t_row = t_row_of(c), job.t_rows = tile_rows_of(c) * t_rows_of(c);
  if (c.strips > 1 && c.up == 2) job.edge = w + p.edge;
  job.size = c.resolution / c.up, job.side = side_of(c), job.tiles = job.side * tile_rows_of(c);
  return job;
}

Synthesis::Synthesis(SynthesisNetwork network, const Kernels &kernels, int64_t batch, int threads)
    : state_(new State(std::move(network), kernels, batch, threads)) {}

Synthesis::~Synthesis() = default;

size_t Synthesis::layers() const { return state_->convs.size(); }

int64_t Synthesis::workspace() const { return state_->size; }

int64_t Synthesis::map_workspace() const { return 2 * state_->hidden[1]; }

void Synthesis::run(const SynthesisCall &call) const {
  const State &s = *state_;
  const int64_t count = static_cast<int64_t>(call.layers ? call.layers : s.convs.size());
  s.team.run(s.pace, [&](Member member) {
    Clock clock(member.thread == 0 ? call.seconds : nullptr, 1 + count);
    float *here = call.workspace + s.scratch + member.thread * s.scratch_size;
    const float *below = nullptr;
    s.styles(s.ws_of(call, member), call.workspace, member);
    clock.lap(0);
    for (int64_t l = 0, images = 0; l < count; l++) {
      const int64_t last = l + s.paired(l);
      ConvJob job = s.job(last, call);
      if (job.rgb_weight) {
        job.rgb = last + 1 == count ? call.image : call.workspace + s.rgb[images++ % 2], job.below = below;
        if (job.conv->strips == 1) s.skip(*job.conv, below, job.rgb, here, member);
        below = job.rgb;
      }
      const ConvJob first = last == l ? job : s.job(l, call);
      if (s.enters_strips(l)) {
        const LayerPlan &p = s.plans[l];
        member.each(s.batch * first.size, [&](int64_t i) {
          s.kernels.to_strips(first, call.workspace + s.x[p.x], i, i + 1, call.workspace + p.strips);
        });
      }
      if (last == l) s.conv(job, s.plans[l], call.workspace, member);
      else s.pair(l, first, job, call.workspace, member, clock);
      clock.lap(1 + last);
      l = last;
    }
  });
}

void Synthesis::map(const float *z, float *w, float *workspace) const {
  state_->team.run(state_->mapping_pace, [&](Member member) { state_->map(z, w, workspace, member); });
}

}  // namespace cagc
