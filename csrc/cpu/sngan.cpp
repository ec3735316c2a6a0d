// The driver of SN-GAN: it divides its stages and workspace among threads.
#include "cagc/sngan.h"
#include "synthesis/products.h"
#include "synthesis/residual_kernels.h"
#include "synthesis/team.h"
#include <algorithm>
#include <cstring>

namespace cagc {
namespace {

// In floats. Threads work on tiles of their own where each of them has so many that rereading the weights costs less
// than the multiplications (as many as reading a float takes, packing.cpp); else they share the products.
constexpr int64_t kRowsOfOwn = 25, kOwnWeights = 3 << 20, kSharedBlock = 4 << 20, kOwnTiles = 12;

int64_t aligned(int64_t floats) { return (floats + 15) / 16 * 16; }

// Whether a point's product is that of the transform at -1, which an up-sampled image leaves zero.
bool is_zero(const StyledConv &c, int64_t point) { return c.up == 2 && (point / 6 == 2 || point % 6 == 2); }

int64_t products(const StyledConv &c) { return c.algorithm == Algorithm::direct3 ? 1 : 36; }

}  // namespace

struct ResidualSynthesis::State {
  struct Plan {
    bool shared;
    int64_t tiles;  // of a block at most
  };

  const ResidualNetwork &network;
  const Kernels &kernels;
  const int64_t batch;
  const int threads;
  Team team;
  Pace pace;
  std::vector<Plan> plans;
  int64_t raw = 0, shortcut = 0, x[2] = {}, block = 0, block_size = 0, scratch = 0, scratch_size = 0, size = 0;
  AlignedFloats memory;

  State(const ResidualNetwork &network, int64_t batch, int threads)
      : network(network), kernels(network.kernels_), batch(batch), threads(threads), team(threads) {
    lay_out();
  }

  int64_t take(int64_t floats) {
    const int64_t at = size;
    size += aligned(floats);
    return at;
  }
  void lay_out();
  ConvJob geometry(size_t layer) const;
  void project(const float *z, Member) const;
  void add_shortcut(size_t layer, Member) const;
  void multiply(const StyledConv &, const Block &, int64_t begin, int64_t end) const;
  void conv(const ResidualJob &, const Plan &, Member) const;
};

void ResidualSynthesis::State::lay_out() {
  const auto &convs = network.convs_;
  int64_t activations = batch * 4 * pitch(4, network.width_), raws = batch * 16 * network.width_, shortcuts = 0;
  for (size_t l = 0; l < convs.size(); l++) {
    // A direct convolution's tiles are pixels.
    const StyledConv &c = convs[l];
    const bool direct = c.algorithm == Algorithm::direct3;
    const int64_t r = c.resolution, side = direct ? r : r / 4, count = batch * side * side;
    const int64_t tile = v_floats(c, 1) + m_floats(c, 1) - 72 * kPointPad, own = (direct ? 4 : 1) * kOwnTiles;
    Plan p{};
    p.shared = count / threads < kRowsOfOwn || weight_floats(c) > kOwnWeights;
    p.tiles = std::min(count, p.shared ? std::max<int64_t>(4, kSharedBlock / tile / 4 * 4) : own);
    plans.push_back(p);
    const int64_t floats = aligned(v_floats(c, p.tiles)) + aligned(m_floats(c, p.tiles));
    block_size = std::max(block_size, p.shared ? floats / threads + 16 : floats);
    scratch_size = std::max(scratch_size, aligned(36 * c.in + 16 * c.out));
    activations = std::max(activations, batch * r * pitch(r, c.out));
    if (!network.sums_[l].shortcut) continue;
    raws = std::max(raws, batch * r * r * c.out), shortcuts = std::max(shortcuts, batch * r / 2 * (r / 2) * c.out);
  }
  block_size = aligned(block_size);
  x[0] = take(activations), x[1] = take(activations), raw = take(raws), shortcut = take(shortcuts);
  block = take(block_size * threads), scratch = take(scratch_size * threads);
  memory = AlignedFloats(size);
}

ConvJob ResidualSynthesis::State::geometry(size_t layer) const {
  const StyledConv &c = network.convs_[layer];
  ConvJob job{};
  job.conv = &c, job.x = memory.data() + x[layer % 2], job.y = memory.data() + x[1 - layer % 2];
  job.size = c.resolution / c.up, job.side = c.algorithm == Algorithm::direct3 ? c.resolution : c.resolution / 4;
  job.tiles = job.side * job.side;
  return job;
}

// z to the 4x4 image, as it is and behind the first normalisation and ReLU.
void ResidualSynthesis::State::project(const float *z, Member member) const {
  const int64_t width = network.width_, columns = 16 * width;
  float *image = memory.data() + raw, *to = memory.data() + x[0];
  DenseJob job{};
  job.layer = &network.projection_, job.a = z, job.lda = job.k = network.z_dim_, job.rows = batch;
  job.columns = job.ldo = columns, job.out = image;
  member.each(kernels.dense_panels(columns), [&](int64_t p) { kernels.dense(job, p, p + 1); });
  const float *scale = network.first_.scale, *shift = network.first_.shift;
  member.each(batch * 4, [&](int64_t row) {
    const float *from = image + row * 4 * width;
    float *out = to + row * pitch(4, width);
    for (int64_t i = 0; i < 4 * width; i++) {
      const float u = from[i] * scale[i % width] + shift[i % width];
      out[i] = u < 0 ? 0 : u;
    }
  });
}

// The shortcut of the block whose second convolution is `layer`, at the size of the block's input.
void ResidualSynthesis::State::add_shortcut(size_t layer, Member member) const {
  const auto &sum = network.sums_[layer];
  const int64_t half = network.convs_[layer].resolution / 2, out = network.convs_[layer].out;
  const int64_t rows = batch * half * half, panels = kernels.panels(out), chunk = 64;
  member.each((rows + chunk - 1) / chunk * panels, [&](int64_t i) {
    const int64_t first = i / panels * chunk, panel = i % panels;
    kernels.gemm(memory.data() + raw + first * sum.in, sum.in, std::min(chunk, rows - first), sum.in, sum.shortcut, out,
                 panel, panel + 1, memory.data() + shortcut + first * out, out);
  });
}

// Units [begin, end) of products by panels.
void ResidualSynthesis::State::multiply(const StyledConv &c, const Block &b, int64_t begin, int64_t end) const {
  const int64_t panels = kernels.panels(c.out);
  for (int64_t i = begin; i < end;) {
    const int64_t point = i / panels, first = i % panels, last = std::min(panels, first + end - i);
    i += last - first;
    if (c.algorithm == Algorithm::direct3) {
      kernels.gemm(b.v, 9 * c.in, b.count, 9 * c.in, c.weight, c.out, first, last, b.m, c.out);
      continue;
    }
    const float *v = b.v + point * (b.count * c.in + kPointPad);
    float *m = b.m + point * (b.count * c.out + kPointPad);
    if (is_zero(c, point)) {
      if (first == 0) std::memset(m, 0, b.count * c.out * sizeof(float));
      continue;
    }
    const int64_t a = point / 6, column = point % 6;
    const int64_t matrix = c.up == 2 ? (a - (a > 2)) * 5 + column - (column > 2) : point;
    kernels.gemm(v, c.in, b.count, c.in, c.weight + matrix * c.in * c.out, c.out, first, last, m, c.out);
  }
}

void ResidualSynthesis::State::conv(const ResidualJob &job, const Plan &plan, Member member) const {
  const StyledConv &c = *job.conv.conv;
  const ResidualKernels &loops = network.loops_;
  const int64_t count = batch * job.conv.tiles, units = products(c) * kernels.panels(c.out);
  const int64_t unit = c.algorithm == Algorithm::direct3 ? 4 : 1, number = (count + plan.tiles - 1) / plan.tiles;
  float *here = memory.data() + scratch + member.thread * scratch_size;
  float *v = memory.data() + block + (plan.shared ? 0 : member.thread * block_size);
  float *m = v + aligned(v_floats(c, plan.tiles));
  const auto block_of = [&](int64_t i) {
    return Block{i * plan.tiles, std::min(plan.tiles, count - i * plan.tiles), v, m};
  };
  if (!plan.shared) {
    return member.each(number, [&](int64_t i) {
      const Block b = block_of(i);
      loops.input(job, b, 0, b.count, here);
      multiply(c, b, 0, units);
      loops.output(job, b, 0, b.count, here);
    });
  }
  for (int64_t i = 0; i < number; i++) {
    const Block b = block_of(i);
    member.each(b.count / unit, [&](int64_t j) { loops.input(job, b, j * unit, (j + 1) * unit, here); });
    member.each(units, [&](int64_t j) { multiply(c, b, j, j + 1); });
    member.each(b.count / unit, [&](int64_t j) { loops.output(job, b, j * unit, (j + 1) * unit, here); });
  }
}

ResidualSynthesis::ResidualSynthesis(const ResidualNetwork &network, int64_t batch, int threads)
    : state_(new State(network, batch, threads)) {}

ResidualSynthesis::~ResidualSynthesis() = default;

size_t ResidualSynthesis::bytes() const { return state_->size * sizeof(float); }

void ResidualSynthesis::run(const float *z, float *image, double *seconds) {
  State &s = *state_;
  const size_t count = s.network.convs_.size();
  s.team.run(s.pace, [&](Member member) {
    Clock clock(member.thread == 0 ? seconds : nullptr, 1 + static_cast<int64_t>(count));
    s.project(z, member);
    clock.lap(0);
    for (size_t l = 0; l < count; l++) {
      const auto &sum = s.network.sums_[l];
      ResidualJob job{};
      job.conv = s.geometry(l), job.up = job.conv.conv->up == 2;
      if (sum.shortcut) {
        s.add_shortcut(l, member);
        job.shortcut = s.memory.data() + s.shortcut, job.scale = sum.scale, job.shift = sum.shift;
        if (l + 2 < count) job.raw = s.memory.data() + s.raw;
      }
      if (l + 1 == count) job.image = image;
      s.conv(job, s.plans[l], member);
      clock.lap(1 + static_cast<int64_t>(l));
    }
  });
}

}  // namespace cagc
