// From the weights of a StyleGAN2 generator to the packed network that Synthesis runs: the choice of algorithms and of
// the layout of activations, Winograd's transforms of filters, and padding. Winograd's algorithm is that of Lavin and
// Gray, "Fast algorithms for convolutional neural networks", CVPR 2016. A transposed convolution of stride 2 has, per
// axis, one output parity with two taps, which it transforms, and one with a single tap, which needs no transform.
#pragma once
#include "cagc/memory.h"
#include "cagc/synthesis.h"

namespace cagc {

// One styled 3x3 convolution and, if rgb_weight is given, the toRGB after it: dense arrays with the gain of the
// equalised learning rate multiplied in, and without that of the activation.
struct ConvWeights {
  int64_t resolution = 0, up = 1;  // of the output, in pixels; 1 or 2
  int64_t in = 0, out = 0;         // channels
  int64_t w = 0, rgb_w = 0;        // index of the affine layers' input in ws
  bool rgb = false;                // whether a toRGB follows
  double noise_strength = 0;
  const double *weight = nullptr;           // [out, in, 3, 3]
  const double *affine = nullptr;           // [in, style_dim]
  const double *affine_bias = nullptr;      // [in]
  const double *bias = nullptr;             // [out]
  const double *rgb_weight = nullptr;       // [3, out]
  const double *rgb_affine = nullptr;       // [out, style_dim]
  const double *rgb_affine_bias = nullptr;  // [out]
  const double *rgb_bias = nullptr;         // [3]
};

enum class Preference : int64_t {
  cheaper = 0,  // weighing multiplications against reads of weights
  transformed,  // winograd43 and winograd42
  plain         // direct3 and transposed2
};

struct PackingOptions {
  int64_t batch = 1;  // that the algorithms are chosen for
  Preference algorithms = Preference::cheaper;
  // Most bytes of the transformed inputs and outputs of 16 tiles of a layer in strips: they must fit the L2 cache.
  int64_t strip_bytes = 5 << 18;
  // Multiplications in the time of reading one float of weights; 0: those of this processor.
  int64_t read_cost = 0;
  Storage mapping = Storage::float32, styles = Storage::float32;  // of mapping and affine layers
};

// What is wrong with the sizes of a network's convolutions, or null: they must be one at 4 px, then for each doubled
// resolution one that up-samples and one that does not, with a toRGB after each of the latter.
const char *why_not_a_network(const std::vector<ConvWeights> &convs, int64_t style_dim);

// Multiplications per pair of input and output channel on size x size input pixels.
int64_t points(Algorithm algorithm, int64_t size);

// Owns the packed weights of a network. Throws std::bad_alloc where there is no memory.
class PackedNetwork {
 public:
  // `convs`: the sizes of all convolutions in order of execution, of which why_not_a_network finds nothing wrong; their
  // arrays are not read.
  PackedNetwork(const Kernels &kernels, const std::vector<ConvWeights> &convs, int64_t style_dim,
                const PackingOptions &options);

  // The next convolution, of the sizes that were given; its arrays may be freed afterwards.
  void add_conv(const ConvWeights &conv);
  void add_mapping_layer(const double *weight, const double *bias);  // [style_dim, style_dim] and [style_dim]
  // Frees the packed layers of the mapping network and the affine layers, to be added anew with these storages.
  void store(Storage mapping, Storage styles);
  void add_affine(size_t conv, const ConvWeights &weights);  // add_conv() calls it
  void set_constant(const double *constant);                         // [in of the first convolution, 4, 4]
  void set_filter(const double *fir);  // four taps of the up-sampling filter with sum 1
  void set_clamp(float clamp) { network_.clamp = clamp; }

  const SynthesisNetwork &network() const { return network_; }  // complete once all convolutions are added
  const Kernels &kernels() const { return kernels_; }
  size_t bytes() const { return bytes_ + dense_bytes_; }
  size_t dense_bytes() const { return dense_bytes_; }  // of the mapping network and the affine layers

 private:
  struct Matrix;
  Dense dense(const double *weight, const double *bias, int64_t k, int64_t columns, int64_t padded, Storage storage,
              double gain);
  float *own(int64_t floats);
  const float *vector(const double *from, int64_t count, int64_t padded, double scale = 1);
  const float *pack(const std::vector<Matrix> &matrices, int64_t columns, bool strips);
  void choose(const std::vector<ConvWeights> &convs, const PackingOptions &options);
  void pack_filters(const ConvWeights &conv, StyledConv &packed);

  const Kernels &kernels_;
  SynthesisNetwork network_;
  int64_t constant_channels_;
  size_t added_ = 0, bytes_ = 0;
  std::vector<AlignedFloats> memory_;
  Storage mapping_, styles_;
  std::vector<AlignedFloats> dense_memory_;
  size_t dense_bytes_ = 0;
};

}  // namespace cagc
