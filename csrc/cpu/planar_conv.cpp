// The driver of a convolution of images in planes: it packs weights, and divides tiles and workspace among threads.
#include "cagc/planar_conv.h"
#include "synthesis/planar_kernels.h"
#include "synthesis/team.h"
#include <algorithm>
#include <cmath>
#include <vector>

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

// What the three taps of an axis are multiplied by for each of its six indices (synthesis/planar_winograd.h): of
// F(4, 3) the polynomial of the taps at each point, divided by the product of its distances to the others; with up = 2
// that of taps 2 and 0, and at last tap 1 itself.
using FilterTransform = double[6][3];

void filter_transform(int64_t up, FilterTransform &g) {
  const double finite[2][5] = {
      {0, std::sqrt(.5), -std::sqrt(.5), std::sqrt(2.), -std::sqrt(2.)}, {1.25, -1.25, .5, -.5}};
  const double *points = finite[up - 1];
  const int count = up == 1 ? 5 : 4;
  std::fill_n(&g[0][0], 18, 0.);
  for (int i = 0; i < count; i++) {
    double distances = 1;
    for (int j = 0; j < count; j++) distances *= i == j ? 1 : points[i] - points[j];
    const double first = 1 / distances, second = points[i] / distances;
    if (up == 1) g[i][0] = first, g[i][1] = second, g[i][2] = second * points[i];
    else g[i][2] = first, g[i][0] = second;
  }
  if (up == 1) g[5][2] = 1;
  else g[4][0] = g[5][1] = 1;
}

// The 36 matrices [in, columns] of a weight [out, in, 3, 3]; columns from `out` on are zero.
std::vector<float> filters(const double *weight, int64_t in, int64_t out, int64_t columns, int64_t up) {
  constexpr int64_t kTogether = 16;  // output channels, so that whole cache lines are written
  FilterTransform g;
  filter_transform(up, g);
  std::vector<float> dense(36 * in * columns);
  for (int64_t first = 0; first < out; first += kTogether) {
    const int64_t count = std::min(kTogether, out - first);
    for (int64_t i = 0; i < in; i++) {
      double taps[9][kTogether] = {}, along_y[6][3][kTogether];
      for (int64_t o = 0; o < count; o++)
        for (int t = 0; t < 9; t++) taps[t][o] = weight[((first + o) * in + i) * 9 + t];
      for (int a = 0; a < 6; a++)
        for (int x = 0; x < 3; x++)
          for (int64_t o = 0; o < kTogether; o++)
            along_y[a][x][o] = g[a][0] * taps[x][o] + g[a][1] * taps[3 + x][o] + g[a][2] * taps[6 + x][o];
      for (int p = 0; p < 36; p++) {
        const auto &row = along_y[p / 6];
        const double *factors = g[p % 6];
        float *to = dense.data() + (p * in + i) * columns + first;
        for (int64_t o = 0; o < count; o++)
          to[o] = static_cast<float>(factors[0] * row[0][o] + factors[1] * row[1][o] + factors[2] * row[2][o]);
      }
    }
  }
  return dense;
}

}  // namespace

struct PlanarConv::Layout {
  PlanarJob job;
  bool shared;
  int64_t runs, tiles;  // in a block at most
  int64_t v, block, scratch;  // floats: of v; of v and m; of a thread's scratch memory
  int64_t total() const { return job.call.n * job.rows * job.parts; }
};

PlanarConv::PlanarConv(const Kernels &kernels, const PlanarKernels &loops, const double *weight, int64_t in,
                       int64_t out, int64_t up)
    : kernels_(kernels), loops_(loops), in_(in), out_(out), up_(up), in_padded_(round_up(in, lanes_of(kernels))),
      out_padded_(round_up(out, std::max<int64_t>(kLanes, lanes_of(kernels)))),
      weight_(36 * in_ * out_padded_, false) {
  prefer_huge_pages(weight_.data(), bytes());
  const std::vector<float> dense = filters(weight, in_, out_, out_padded_, up_);
  for (int64_t p = 0; p < 36; p++) {
    const int64_t at = p * in_ * out_padded_;
    pack_matrix(kernels_, dense.data() + at, in_, out_padded_, weight_.data() + at);
  }
}

PlanarConv::Layout PlanarConv::lay_out(const PlanarCall &call, int threads) const {
  Layout l{};
  PlanarJob &job = l.job;
  job.call = call, job.in = in_, job.out = out_, job.in_padded = in_padded_, job.out_padded = out_padded_;
  job.up = up_;
  job.out_h = up_ == 2 ? 2 * call.h + 1 : call.h + 2 * call.padding - 2;
  job.out_w = up_ == 2 ? 2 * call.w + 1 : call.w + 2 * call.padding - 2;
  job.rows = divide(job.out_h, 4 * up_), job.side = divide(job.out_w, 4 * up_);
  l.shared = 36 * in_ * out_padded_ > kOwnWeights || call.n * job.rows * job.side < kTilesOfOwn * threads;
  const int64_t rows = planar_rows(up_), tile = rows * (in_padded_ + out_padded_);
  const int64_t fit = l.shared ? std::max<int64_t>(4, kSharedBlock / tile)
                               : std::clamp(kOwnBlock / tile, kFewestTiles, kMostTiles);
  job.parts = divide(job.side, fit);
  // Ends of runs inside of a row are rounded down to a multiple of four.
  const int64_t longest = job.parts == 1 ? job.side : std::min(job.side, divide(job.side, job.parts) + 3);
  l.runs = std::max<int64_t>(1, fit / longest);
  l.tiles = l.runs * longest;
  l.v = round_up(rows * l.tiles * in_padded_ + 36 * kPointPad, 16);
  l.block = l.v + round_up(rows * l.tiles * out_padded_ + 36 * kPointPad, 16);
  l.scratch = round_up(planar_scratch(up_, longest, lanes_of(kernels_)), 16);
  return l;
}

int64_t PlanarConv::workspace(const PlanarCall &call, int threads) const {
  const Layout l = lay_out(call, threads);
  return 16 + l.block * (l.shared ? 1 : threads) + l.scratch * threads;
}

int64_t PlanarConv::multiplications(const PlanarCall &call) const {
  const Layout l = lay_out(call, 1);
  return call.n * l.job.rows * l.job.side * planar_rows(up_);
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
      const PlanarPoint p = planar_point(up_, point);
      loops_.multiply(b.v + p.before * b.count * in_padded_ + point * kPointPad, in_padded_, b.count * p.rows, in_,
                      weight_.data() + point * in_ * out_padded_, out_padded_, begin, end,
                      b.m + p.before * b.count * out_padded_ + point * kPointPad, out_padded_);
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
