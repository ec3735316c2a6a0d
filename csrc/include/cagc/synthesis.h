// The synthesis network of StyleGAN2 as one call: float32, weights frozen and packed. Activations are in NHWC with
// channels padded to a multiple of kLanes, those of large images in strips (csrc/cpu/synthesis/strips.h). Padding
// channels of weights, biases and affine layers are zero.
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace cagc {

constexpr int64_t kLanes = 8;

// How a convolution becomes matrix products. `points` per tile, `matrices` of weights:
//   direct3        pixels, one product over 9 taps
//   winograd43     F(4x4, 3x3): tiles of 4x4 outputs, 36 points
//   transposed2    stride-2 transposed convolution, one product per output parity (1, 2, 2 and 4 taps), then the FIR
//   winograd42     the same, its parities of 2 taps by F(4, 2): tiles of 4x4 inputs, 81 points on 36 matrices
enum class Algorithm : int64_t { direct3 = 0, winograd43, transposed2, winograd42 };

// One styled 3x3 convolution and, where rgb_weight is given, the toRGB that follows it. Matrices are packed by
// pack_matrices; gains (equalised learning rate, the sqrt(2) of the activation in `bias` and `noise_strength`) are in.
struct StyledConv {
  Algorithm algorithm = Algorithm::direct3;
  int64_t up = 1;          // 1 or 2
  int64_t resolution = 0;  // of the output
  int64_t strips = 1;      // 1: vectors of channels; else lanes_of() the kernels: vectors of pixels
  int64_t in = 0, out = 0;  // channels that are stored: padded where they are the vectors
  int64_t in_padded = 0, out_padded = 0;
  int64_t w = 0, rgb_w = 0;                // which of the ws feeds the affine layers
  const float *weight = nullptr;           // packed, matrices of the algorithm
  const float *energy = nullptr;           // packed [in, out]     sum of squares per filter
  const float *bias = nullptr;             // [out]
  const float *affine = nullptr;           // packed [style_dim, in]
  const float *affine_bias = nullptr;      // [in]
  const float *rgb_weight = nullptr;       // [3, out], or null
  const float *rgb_affine = nullptr;       // packed [style_dim, out]
  const float *rgb_affine_bias = nullptr;  // [out]
  const float *rgb_bias = nullptr;         // [3]
  // Strips with up: packed [2 in, out], taps (0, 2) and (2, 2), then [in, out], tap (1, 2).
  const float *edge_weight = nullptr;
  float noise_strength = 0;
};

// Fully connected layers with leaky ReLU behind a normalisation to unit mean square.
struct Mapping {
  struct Layer { const float *weight, *bias; };  // packed [style_dim, features] and [features], with their gains
  std::vector<Layer> layers;
  int64_t features = 0;
};

struct SynthesisNetwork {
  std::vector<StyledConv> convs;
  Mapping mapping;
  const float *constant = nullptr;  // [16, in of the first convolution]
  int64_t style_dim = 0;
  float fir[4] = {};  // taps of the up-sampling filter in the order of a correlation, scaled to a sum of 2
  float clamp = std::numeric_limits<float>::infinity();  // bound of what every convolution and toRGB gives
};

struct Kernels;

// Names of the instruction sets that are compiled in and run here, best first: "v4", "v3" (x86-64 levels), "generic".
std::vector<const char *> instruction_sets();

// The ops take the kernels of this instruction set from now on, instead of the best: for tests and measurements, while
// no op runs. False if it is not one of instruction_sets().
bool use_instructions(const char *name);

// The kernels of an instruction set; null if it is not one of instruction_sets().
const Kernels *find_kernels(const char *instructions);

// Lays a dense matrix [k, columns], columns a multiple of kLanes, out for the kernels of an instruction set. Those of a
// layer in strips, of any number of columns, are laid out by pack_strips.
void pack_matrix(const Kernels &kernels, const float *matrix, int64_t k, int64_t columns, float *packed);
void pack_strips(const Kernels &kernels, const float *matrix, int64_t k, int64_t columns, float *packed);

// Floats of a vector of the kernels.
int64_t lanes_of(const Kernels &kernels);

// Asks for pages of 2 MB before the memory is touched: the points of a tile lie in as many small pages as there are
// points, more than the first-level TLB holds. A hint: nothing happens where there are none.
void prefer_huge_pages(void *memory, size_t bytes);

struct SynthesisCall {
  // [r, r] of sample n at data + n * sample; data null: none
  struct Noise { const float *data; int64_t sample; };

  const float *ws = nullptr;  // sample n, layer l at ws + n * w_sample + l * w_layer: [style_dim]
  int64_t w_sample = 0, w_layer = 0;
  std::vector<Noise> noise;   // per convolution
  float *image = nullptr;     // [batch, 3, R, R]
  float *workspace = nullptr;
  double *seconds = nullptr;  // [1 + convolutions]: styles and each convolution; or null
};

class Synthesis {
 public:
  Synthesis(SynthesisNetwork network, const Kernels &kernels, int64_t batch, int threads);
  ~Synthesis();

  size_t layers() const;
  int64_t workspace() const;  // floats that map() and run() need, 64-byte aligned
  void map(const float *z, float *w, float *workspace) const;  // z [batch, style_dim] -> w [batch, padded style_dim]
  void run(const SynthesisCall &call) const;

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

}  // namespace cagc
