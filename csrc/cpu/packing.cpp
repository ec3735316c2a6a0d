// Chooses algorithms, and transforms and packs weights: once per network, in float64.
#include "cagc/packing.h"
#include <algorithm>
#include <cmath>

namespace cagc {
namespace {

constexpr int64_t kMaxConvs = 64, kMaxWidth = 1 << 16, kMaxActivations = 1 << 27;  // floats

// Filter transforms. Rows of F(4, 3): the points 0, 1, -1, 2, -2, infinity. Rows of F(4, 2): the points 0, 1, -1, 2,
// infinity for taps (2, 0) of a stride-2 transposed convolution, then its tap 1 untransformed.
using Transform = double[6][3];
constexpr Transform kF43 = {{6. / 24, 0, 0},
                            {-4. / 24, -4. / 24, -4. / 24},
                            {-4. / 24, 4. / 24, -4. / 24},
                            {1. / 24, 2. / 24, 4. / 24},
                            {1. / 24, -2. / 24, 4. / 24},
                            {0, 0, 24. / 24}};
constexpr Transform kF42 = {{0, 0, 3. / 6}, {-3. / 6, 0, -3. / 6}, {1. / 6, 0, -1. / 6},
                            {2. / 6, 0, 1. / 6}, {6. / 6, 0, 0}, {0, 6. / 6, 0}};

// The taps (row, column) of each product of the algorithms that transform nothing.
struct Tap { int64_t y, x; };
const std::vector<std::vector<Tap>> kDirect = {
    {{0, 0}, {0, 1}, {0, 2}, {1, 0}, {1, 1}, {1, 2}, {2, 0}, {2, 1}, {2, 2}}};
const std::vector<std::vector<Tap>> kParities = {
    {{1, 1}}, {{2, 1}, {0, 1}}, {{1, 0}, {1, 2}}, {{2, 0}, {0, 0}, {0, 2}, {2, 2}}};
const std::vector<std::vector<Tap>> kEdge = {{{0, 2}, {2, 2}}, {{1, 2}}};

int64_t padded(int64_t channels) { return (channels + kLanes - 1) / kLanes * kLanes; }

bool transforms(Algorithm a) { return a == Algorithm::winograd43 || a == Algorithm::winograd42; }

// Multiplications in the time of reading one float of weights. Layers whose algorithm depends on it have few pixels and
// read their weights from the last cache: 4 to 7 on an EPYC of Zen 4, but as many as from memory on Intel's Xeons.
int64_t read_cost() {
#if defined(CAGC_X86_LEVELS)
  __builtin_cpu_init();
  if (__builtin_cpu_is("amd")) return 8;
#endif
  return 25;
}

Algorithm choose_algorithm(const ConvWeights &conv, const PackingOptions &options) {
  const Algorithm plain = conv.up == 1 ? Algorithm::direct3 : Algorithm::transposed2;
  const Algorithm fast = conv.up == 1 ? Algorithm::winograd43 : Algorithm::winograd42;
  if (options.algorithms != Preference::cheaper) return options.algorithms == Preference::plain ? plain : fast;
  const int64_t size = conv.resolution / conv.up;
  const int64_t read = options.read_cost ? options.read_cost : read_cost();
  const auto cost = [&](Algorithm a) { return options.batch * points(a, size) + read * (transforms(a) ? 36 : 9); };
  return size >= 4 && cost(fast) < cost(plain) ? fast : plain;
}

// The number of vertical strips of each convolution: 1 where vectors hold channels, `lanes` where they hold pixels.
// The last layers use strips, from the first one of at least 32 pixels on after which all have whole 4-pixel tiles and
// transformed tiles that fit strip_bytes. There an up-sampling layer and the next one run together.
std::vector<int64_t> choose_strips(const std::vector<ConvWeights> &convs, const std::vector<StyledConv> &chosen,
                                   int64_t lanes, int64_t strip_bytes) {
  const size_t count = convs.size();
  std::vector<int64_t> strips(count, 1);
  for (size_t i = count; i-- > 0;) {
    const ConvWeights &c = convs[i];
    const int64_t rows = chosen[i].algorithm == Algorithm::winograd43 ? 36 : 81;
    const bool narrow = transforms(chosen[i].algorithm) && 64 * rows * (c.out + c.in) <= strip_bytes;
    const int64_t size = c.resolution / c.up;
    if (!narrow || size < 32 || size % (4 * lanes)) break;
    strips[i] = lanes;
  }
  if (count < 2 || strips[count - 2] == 1) strips.assign(count, 1);  // one layer is not worth the change
  return strips;
}

}  // namespace

// Dense, [k, columns].
struct PackedNetwork::Matrix {
  int64_t k, columns;
  std::vector<float> values;

  Matrix(int64_t k, int64_t columns) : k(k), columns(columns), values(k * columns) {}
  float &at(int64_t row, int64_t column) { return values[row * columns + column]; }

  // The taps of a filter [out, in, 3, 3], one below the other.
  static Matrix of_taps(const ConvWeights &conv, const std::vector<Tap> &taps, int64_t in, int64_t out) {
    Matrix m(static_cast<int64_t>(taps.size()) * in, out);
    for (size_t t = 0; t < taps.size(); t++)
      for (int64_t n = 0; n < conv.in; n++)
        for (int64_t o = 0; o < conv.out; o++)
          m.at(t * in + n, o) = static_cast<float>(conv.weight[((o * conv.in + n) * 3 + taps[t].y) * 3 + taps[t].x]);
    return m;
  }
};

const char *why_not_a_network(const std::vector<ConvWeights> &convs, int64_t style_dim) {
  if (convs.empty() || static_cast<int64_t>(convs.size()) > kMaxConvs || convs.size() % 2 == 0)
    return "convolutions: expected an odd number, at most 64";
  if (style_dim < 1 || style_dim > kMaxWidth) return "style_dim: expected 1 to 65536";
  for (size_t i = 0; i < convs.size(); i++) {
    const ConvWeights &c = convs[i];
    if (c.in < 1 || c.out < 1 || c.in > kMaxWidth || c.out > kMaxWidth) return "channels: expected 1 to 65536";
    if (c.up != (i % 2 ? 2 : 1)) return "up: expected 1, then 2 and 1 in turn";
    const int64_t resolution = i ? convs[i - 1].resolution * c.up : 4;
    if (c.resolution != resolution) return "resolution: expected 4, then what each up makes of it";
    if (i && c.in != convs[i - 1].out) return "channels: expected the output of the convolution before";
    if (c.rgb != (c.up == 1)) return "toRGB: expected after the convolutions that do not up-sample";
    if (padded(c.out) * c.resolution * c.resolution > kMaxActivations)
      return "channels: more than 512 MB of activations";
  }
  return nullptr;
}

int64_t points(Algorithm algorithm, int64_t size) {
  const auto square = [](int64_t n) { return n * n; };
  switch (algorithm) {
    case Algorithm::direct3: return 9 * square(size);
    case Algorithm::winograd43: return 36 * square(size / 4);
    case Algorithm::transposed2: return 9 * square(size + 1);
    default: return 81 * square(size / 4 + 1);
  }
}

PackedNetwork::PackedNetwork(const Kernels &kernels, const std::vector<ConvWeights> &convs, int64_t style_dim,
                             const PackingOptions &options)
    : kernels_(kernels), constant_channels_(convs.front().in), mapping_(options.mapping), styles_(options.styles) {
  network_.style_dim = style_dim, network_.mapping.features = padded(style_dim);
  network_.convs.resize(convs.size());
  choose(convs, options);
}

void PackedNetwork::choose(const std::vector<ConvWeights> &convs, const PackingOptions &options) {
  for (size_t i = 0; i < convs.size(); i++) network_.convs[i].algorithm = choose_algorithm(convs[i], options);
  const auto strips = choose_strips(convs, network_.convs, lanes_of(kernels_), options.strip_bytes);
  for (size_t i = 0; i < convs.size(); i++) {
    StyledConv &to = network_.convs[i];
    const ConvWeights &c = convs[i];
    to.up = c.up, to.resolution = c.resolution, to.strips = strips[i];
    to.in_padded = padded(c.in), to.out_padded = padded(c.out);
    to.in = to.strips > 1 ? c.in : to.in_padded, to.out = to.strips > 1 ? c.out : to.out_padded;
  }
}

float *PackedNetwork::own(int64_t floats) {
  memory_.emplace_back(floats);
  bytes_ += floats * sizeof(float);
  return memory_.back().data();
}

const float *PackedNetwork::vector(const double *from, int64_t count, int64_t padded_count, double scale) {
  float *to = own(padded_count);
  for (int64_t i = 0; i < count; i++) to[i] = static_cast<float>(from[i] * scale);
  return to;
}

// The matrices one behind the other, padded to `columns`.
const float *PackedNetwork::pack(const std::vector<Matrix> &matrices, int64_t columns, bool strips) {
  int64_t rows = 0;
  for (const Matrix &m : matrices) rows += m.k;
  float *packed = own(rows * columns), *to = packed;
  std::vector<float> dense;
  for (const Matrix &m : matrices) {
    dense.assign(m.k * columns, 0.f);
    for (int64_t i = 0; i < m.k; i++) std::copy_n(&m.values[i * m.columns], m.columns, &dense[i * columns]);
    (strips ? pack_strips : pack_matrix)(kernels_, dense.data(), m.k, columns, to);
    to += m.k * columns;
  }
  return packed;
}

void PackedNetwork::pack_filters(const ConvWeights &conv, StyledConv &to) {
  const bool strips = to.strips > 1;
  const auto taps = [&](const std::vector<std::vector<Tap>> &products) {
    std::vector<Matrix> matrices;
    for (const auto &product : products) matrices.push_back(Matrix::of_taps(conv, product, to.in, to.out));
    return pack(matrices, to.out, strips);
  };
  if (strips && to.up == 2) to.edge_weight = taps(kEdge);
  if (!transforms(to.algorithm)) {
    to.weight = taps(to.algorithm == Algorithm::direct3 ? kDirect : kParities);
    return;
  }
  const Transform &g = to.algorithm == Algorithm::winograd43 ? kF43 : kF42;
  std::vector<Matrix> matrices(36, Matrix(to.in, to.out));
  for (int64_t o = 0; o < conv.out; o++)
    for (int64_t n = 0; n < conv.in; n++) {
      const double *f = conv.weight + (o * conv.in + n) * 9;
      for (int a = 0; a < 6; a++) {
        double row[3];
        for (int x = 0; x < 3; x++) row[x] = g[a][0] * f[x] + g[a][1] * f[3 + x] + g[a][2] * f[6 + x];
        for (int b = 0; b < 6; b++)
          matrices[a * 6 + b].at(n, o) = static_cast<float>(row[0] * g[b][0] + row[1] * g[b][1] + row[2] * g[b][2]);
      }
    }
  to.weight = pack(matrices, to.out, strips);
}

void PackedNetwork::add_conv(const ConvWeights &conv) {
  const double gain = std::sqrt(2.0);  // of the activation
  StyledConv &to = network_.convs[added_++];
  to.w = conv.w, to.rgb_w = conv.rgb_w, to.noise_strength = static_cast<float>(conv.noise_strength * gain);
  pack_filters(conv, to);
  Matrix energy(to.in_padded, conv.out);
  for (int64_t o = 0; o < conv.out; o++)
    for (int64_t n = 0; n < conv.in; n++) {
      double sum = 0;
      const double *taps = conv.weight + (o * conv.in + n) * 9;
      for (int t = 0; t < 9; t++) sum += taps[t] * taps[t];
      energy.at(n, o) = static_cast<float>(sum);
    }
  to.energy = pack({energy}, to.out_padded, false);
  to.bias = vector(conv.bias, conv.out, to.out_padded, gain);
  add_affine(added_ - 1, conv);
  if (!conv.rgb) return;
  float *rgb = own(3 * to.out_padded);
  for (int64_t k = 0; k < 3; k++)
    for (int64_t o = 0; o < conv.out; o++)
      rgb[k * to.out_padded + o] = static_cast<float>(conv.rgb_weight[k * conv.out + o]);
  to.rgb_weight = rgb;
  to.rgb_bias = vector(conv.rgb_bias, 3, 3);
}

// weight [columns, k], bias [columns]
Dense PackedNetwork::dense(const double *weight, const double *bias, int64_t k, int64_t columns, int64_t padded_columns,
                           Storage storage, double gain) {
  const auto own_dense = [&](int64_t bytes) {
    dense_memory_.emplace_back((bytes + 3) / 4);
    dense_bytes_ += bytes;
    return dense_memory_.back().data();
  };
  std::vector<float> matrix(k * padded_columns);
  for (int64_t c = 0; c < columns; c++)
    for (int64_t i = 0; i < k; i++) matrix[i * padded_columns + c] = static_cast<float>(weight[c * k + i] * gain);
  void *packed = own_dense(k * padded_columns * bytes_of(storage));
  float *scale = storage != Storage::float32 ? own_dense(4 * padded_columns) : nullptr;
  float *biases = own_dense(4 * padded_columns);
  for (int64_t c = 0; c < columns; c++) biases[c] = static_cast<float>(bias[c] * gain);
  pack_dense(kernels_, storage, matrix.data(), k, padded_columns, packed, scale);
  return {packed, scale, biases, storage};
}

void PackedNetwork::store(Storage mapping, Storage styles) {
  mapping_ = mapping, styles_ = styles;
  network_.mapping.layers.clear(), dense_memory_.clear(), dense_bytes_ = 0;
}

void PackedNetwork::add_affine(size_t index, const ConvWeights &conv) {
  StyledConv &to = network_.convs[index];
  const int64_t f = network_.style_dim;
  to.affine = dense(conv.affine, conv.affine_bias, f, conv.in, to.in_padded, styles_, 1);
  if (conv.rgb) to.rgb_affine = dense(conv.rgb_affine, conv.rgb_affine_bias, f, conv.out, to.out_padded, styles_, 1);
}

void PackedNetwork::add_mapping_layer(const double *weight, const double *bias) {
  const int64_t f = network_.style_dim;
  network_.mapping.layers.push_back(dense(weight, bias, f, f, network_.mapping.features, mapping_, std::sqrt(2.0)));
}

void PackedNetwork::set_constant(const double *constant) {
  const StyledConv &first = network_.convs.front();
  float *to = own(16 * first.in_padded);
  network_.constant = to;
  for (int64_t c = 0; c < constant_channels_; c++)
    for (int64_t i = 0; i < 16; i++) to[i * first.in_padded + c] = static_cast<float>(constant[c * 16 + i]);
}

void PackedNetwork::set_filter(const double *fir) {
  for (int i = 0; i < 4; i++) network_.fir[i] = static_cast<float>(2 * fir[3 - i]);
}

}  // namespace cagc
