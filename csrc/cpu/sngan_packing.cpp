// Chooses algorithms for SN-GAN's convolutions, transforms and packs their weights: once per network, in float64.
#include "cagc/packing.h"
#include "cagc/sngan.h"
#include "winograd_filters.h"
#include <algorithm>

namespace cagc {
namespace {

int64_t padded(int64_t channels) { return (channels + kLanes - 1) / kLanes * kLanes; }

}  // namespace

const char *why_not_residual(const ResidualGenerator &g) {
  const size_t count = g.convs.size();
  if (g.z_dim < 1 || g.width < 1 || g.width > 1 << 16 || g.z_dim > 1 << 16) return "z_dim, width: expected 1 to 65536";
  if (count < 3 || count % 2 == 0 || count > 32) return "convolutions: expected two for each block and a last one";
  for (size_t i = 0; i < count; i++) {
    const ResidualConv &c = g.convs[i];
    const bool last = i + 1 == count, second = i % 2 && !last;
    const int64_t in = i ? g.convs[i - 1].out : g.width, block_in = i < 2 ? g.width : g.convs[i - 2].out;
    if (c.in != in || c.out < 1 || c.out > 1 << 16) return "channels: expected the output of the convolution before";
    if (c.resolution != (last ? g.convs[i - 1].resolution : int64_t{8} << i / 2))
      return "resolution: expected 8, 8, 16, 16, ...";
    if (!c.weight || !c.bias || (last && c.out != 3)) return "a convolution: expected weight and bias, the last of 3";
    if (second != (c.shortcut && c.scale && c.shift) || (second && c.shortcut_in != block_in))
      return "shortcut: expected one on the second convolution of a block, from the block's input";
  }
  return g.projection && g.projection_bias && g.scale && g.shift ? nullptr : "projection: expected its tensors";
}

ResidualNetwork::ResidualNetwork(const Kernels &kernels, const ResidualKernels &loops, const ResidualGenerator &g,
                                 int64_t batch)
    : kernels_(kernels), loops_(loops), z_dim_(g.z_dim), width_(padded(g.width)) {
  const int64_t columns = 16 * width_;
  std::vector<float> dense(g.z_dim * columns);
  float *bias = own(columns);
  for (int64_t c = 0; c < g.width; c++)
    for (int64_t pixel = 0; pixel < 16; pixel++) {
      bias[pixel * width_ + c] = static_cast<float>(g.projection_bias[c * 16 + pixel]);
      for (int64_t i = 0; i < g.z_dim; i++)
        dense[i * columns + pixel * width_ + c] = static_cast<float>(g.projection[(c * 16 + pixel) * g.z_dim + i]);
    }
  float *packed = own(g.z_dim * columns);
  pack_dense(kernels, Storage::float32, dense.data(), g.z_dim, columns, packed, nullptr);
  projection_ = {packed, nullptr, bias, Storage::float32};
  first_.scale = vector(g.scale, g.width, width_), first_.shift = vector(g.shift, g.width, width_);
  for (size_t i = 0; i < g.convs.size(); i++) add(g.convs[i], i % 2 == 0 && i + 1 < g.convs.size(), batch);
}

float *ResidualNetwork::own(int64_t floats) {
  memory_.emplace_back(floats);
  bytes_ += floats * sizeof(float);
  return memory_.back().data();
}

const float *ResidualNetwork::vector(const double *from, int64_t count, int64_t padded_count) {
  float *to = own(padded_count);
  std::transform(from, from + count, to, [](double value) { return static_cast<float>(value); });
  return to;
}

const float *ResidualNetwork::matrix(const std::vector<float> &dense, int64_t k, int64_t columns) {
  float *packed = own(k * columns);
  pack_matrix(kernels_, dense.data(), k, columns, packed);
  return packed;
}

void ResidualNetwork::add(const ResidualConv &conv, bool up, int64_t batch) {
  StyledConv to;
  to.up = up ? 2 : 1, to.resolution = conv.resolution;
  to.in = to.in_padded = padded(conv.in), to.out = to.out_padded = padded(conv.out);
  // Cost model as for StyleGAN2: reading one float of weights takes the time of 25 multiplications. The 25 products of
  // an up-sampling layer are always fewer than its direct ones.
  const auto cost = [&](Algorithm a) {
    return batch * points(a, conv.resolution) + 25 * (a == Algorithm::direct3 ? 9 : 36);
  };
  const bool fast = up || cost(Algorithm::winograd43) < cost(Algorithm::direct3);
  to.algorithm = fast ? Algorithm::winograd43 : Algorithm::direct3;
  to.weight = filter(conv, to), to.bias = vector(conv.bias, conv.out, to.out);
  Sum sum;
  if (conv.shortcut) {
    sum.in = padded(conv.shortcut_in);
    std::vector<float> dense(sum.in * to.out);
    for (int64_t o = 0; o < conv.out; o++)
      for (int64_t i = 0; i < conv.shortcut_in; i++)
        dense[i * to.out + o] = static_cast<float>(conv.shortcut[o * conv.shortcut_in + i]);
    sum.shortcut = matrix(dense, sum.in, to.out);
    sum.scale = vector(conv.scale, conv.out, to.out), sum.shift = vector(conv.shift, conv.out, to.out);
  }
  convs_.push_back(to), sums_.push_back(sum);
}

// direct3: one matrix of 9 taps. winograd43: those of the 36 points, or of the 25 of an up-sampling layer.
const float *ResidualNetwork::filter(const ResidualConv &conv, const StyledConv &to) {
  if (to.algorithm == Algorithm::direct3) {
    std::vector<float> dense(9 * to.in * to.out);
    for (int64_t o = 0; o < conv.out; o++)
      for (int64_t i = 0; i < conv.in; i++)
        for (int64_t t = 0; t < 9; t++)
          dense[(t * to.in + i) * to.out + o] = static_cast<float>(conv.weight[(o * conv.in + i) * 9 + t]);
    return matrix(dense, 9 * to.in, to.out);
  }
  const int64_t size = to.in * to.out, kept = to.up == 2 ? 5 : 6;
  const std::vector<float> dense = filters43(conv.weight, conv.in, conv.out, to.in, to.out);
  float *packed = own(kept * kept * size), *next = packed;
  for (int64_t p = 0; p < 36; p++) {
    if (to.up == 2 && (p / 6 == 2 || p % 6 == 2)) continue;  // of the point -1
    pack_matrix(kernels_, dense.data() + p * size, to.in, to.out, next);
    next += size;
  }
  return packed;
}

}  // namespace cagc
