// The driver of a convolution of images in planes: it packs weights, and divides tiles and workspace among threads.
#include "cagc/planar_conv.h"
#include "synthesis/planar_kernels.h"
#include "synthesis/team.h"
#include "winograd_filters.h"
#include <algorithm>

namespace cagc {
namespace {

// In floats. While the weights of a layer fit into the L3 cache, each thread has blocks of its own, which stay in its
// L2 cache; larger weights are read once per block, which all threads share (synthesis/layer_plan.h).
constexpr int64_t kOwnWeights = 3 << 20, kOwnBlock = 160 << 10, kSharedBlock = 4 << 20;
constexpr int64_t kFewestTiles = 12, kMostTiles = 64;  // of a thread's own block
// Tiles of a thread from which on rereading the weights costs less than the multiplications (sngan.cpp).
constexpr int64_t kTilesOfOwn = 25;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
int64_t divide(int64_t n, int64_t by) { return (n + by - 1) / by; }

}  // namespace

struct PlanarConv::Layout {
  PlanarJob job;
  bool shared;
  int64_t runs, tiles;  // in a block at most
  int64_t v, block, scratch;  // floats: of v; of v and m; of a thread's scratch memory
  int64_t total() const { return job.call.n * job.rows * job.parts; }
};

PlanarConv::PlanarConv(const Kernels &kernels, const PlanarKernels &loops, const double *weight, int64_t in,
                       int64_t out)
    : kernels_(kernels), loops_(loops), in_(in), out_(out), in_padded_(round_up(in, lanes_of(kernels))),
      out_padded_(round_up(out, std::max<int64_t>(kLanes, lanes_of(kernels)))),
      weight_(36 * in_ * out_padded_, false) {
  prefer_huge_pages(weight_.data(), bytes());
  const std::vector<float> dense = filters43(weight, in_, out_, in_, out_padded_);
  for (int64_t p = 0; p < 36; p++) {
    const int64_t at = p * in_ * out_padded_;
    pack_matrix(kernels_, dense.data() + at, in_, out_padded_, weight_.data() + at);
  }
}

PlanarConv::Layout PlanarConv::lay_out(const PlanarCall &call, int threads) const {
  Layout l{};
  PlanarJob &job = l.job;
  job.call = call, job.in = in_, job.out = out_, job.in_padded = in_padded_, job.out_padded = out_padded_;
  job.out_h = call.h + 2 * call.padding - 2, job.out_w = call.w + 2 * call.padding - 2;
  job.rows = divide(job.out_h, 4), job.side = divide(job.out_w, 4);
  l.shared = 36 * in_ * out_padded_ > kOwnWeights || call.n * job.rows * job.side < kTilesOfOwn * threads;
  const int64_t tile = 36 * (in_padded_ + out_padded_);
  const int64_t fit = l.shared ? std::max<int64_t>(4, kSharedBlock / tile)
                               : std::clamp(kOwnBlock / tile, kFewestTiles, kMostTiles);
  job.parts = divide(job.side, fit);
  // Ends of runs inside of a row are rounded down to a multiple of four.
  const int64_t longest = job.parts == 1 ? job.side : std::min(job.side, divide(job.side, job.parts) + 3);
  l.runs = std::max<int64_t>(1, fit / longest);
  l.tiles = l.runs * longest;
  l.v = round_up(36 * (l.tiles * in_padded_ + kPointPad), 16);
  l.block = l.v + round_up(36 * (l.tiles * out_padded_ + kPointPad), 16);
  l.scratch = round_up(planar_scratch(longest, lanes_of(kernels_)), 16);
  return l;
}

int64_t PlanarConv::workspace(const PlanarCall &call, int threads) const {
  const Layout l = lay_out(call, threads);
  return 16 + l.block * (l.shared ? 1 : threads) + l.scratch * threads;
}

int64_t PlanarConv::multiplications(const PlanarCall &call) const {
  const Layout l = lay_out(call, 1);
  return call.n * l.job.rows * l.job.side * 36;
}

void PlanarConv::run(const PlanarCall &call, int threads) const {
  const Layout l = lay_out(call, threads);
  const PlanarJob &job = l.job;
  const int64_t lanes = lanes_of(kernels_), groups_in = in_padded_ / lanes, groups_out = out_padded_ / lanes;
  const int64_t panels = kernels_.panels(out_padded_), number = divide(l.total(), l.runs);
  float *memory = reinterpret_cast<float *>((reinterpret_cast<uintptr_t>(call.workspace) + 63) / 64 * 64);
  const auto tiles_before = [&](const Run &run) { return (run.n * job.rows + run.row) * job.side + run.first; };

  Team team(threads);
  team.run([&](Member member) {
    float *v = memory + (l.shared ? 0 : member.thread * l.block);
    float *scratch = memory + l.block * (l.shared ? 1 : threads) + member.thread * l.scratch;
    const auto runs_of = [&](int64_t i) { return std::min(l.runs, l.total() - i * l.runs); };
    const auto block_of = [&](int64_t i) {
      const Run last = run_of(job, i * l.runs + runs_of(i) - 1);
      const int64_t first = tiles_before(run_of(job, i * l.runs));
      return Block{first, tiles_before(last) + last.count - first, v, v + l.v};
    };
    const auto input = [&](const Block &b, int64_t i, int64_t unit) {
      const Run run = run_of(job, i * l.runs + unit / groups_in);
      loops_.input(job, b, run, tiles_before(run) - b.first, unit % groups_in, scratch);
    };
    const auto output = [&](const Block &b, int64_t i, int64_t unit) {
      const Run run = run_of(job, i * l.runs + unit / groups_out);
      loops_.output(job, b, run, tiles_before(run) - b.first, unit % groups_out, scratch);
    };
    const auto multiply = [&](const Block &b, int64_t point, int64_t begin, int64_t end) {
      kernels_.gemm(b.v + point * (b.count * in_padded_ + kPointPad), in_padded_, b.count, in_,
                    weight_.data() + point * in_ * out_padded_, out_padded_, begin, end,
                    b.m + point * (b.count * out_padded_ + kPointPad), out_padded_);
    };
    if (!l.shared)
      return member.each(number, [&](int64_t i) {
        const Block b = block_of(i);
        for (int64_t j = 0; j < runs_of(i) * groups_in; j++) input(b, i, j);
        for (int64_t point = 0; point < 36; point++) multiply(b, point, 0, panels);
        for (int64_t j = 0; j < runs_of(i) * groups_out; j++) output(b, i, j);
      });
    for (int64_t i = 0; i < number; i++) {
      const Block b = block_of(i);
      member.each(runs_of(i) * groups_in, [&](int64_t j) { input(b, i, j); });
      member.each(36 * panels, [&](int64_t j) { multiply(b, j / panels, j % panels, j % panels + 1); });
      member.each(runs_of(i) * groups_out, [&](int64_t j) { output(b, i, j); });
    }
  });
}

}  // namespace cagc
