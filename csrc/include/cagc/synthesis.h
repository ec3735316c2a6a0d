// The synthesis network of StyleGAN2 as one call: float32, weights frozen and packed. Activations are in NHWC with
// channels padded to a multiple of kLanes, those of large images in strips (csrc/cpu/synthesis/strips.h). Padding
// channels of weights, biases and affine layers are zero.
#pragma once
#include <cstddef>
#include <cstdint>
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
  Algorithm algorithm;
  int64_t up;                 // 1 or 2
  int64_t resolution;         // of the output
  int64_t strips;             // 1: vectors of channels; else lanes_of() the kernels: vectors of pixels
  int64_t in, out;            // channels that are stored: padded where they are the vectors
  int64_t in_padded, out_padded;
  int64_t w, rgb_w;           // which of the ws feeds the affine layers
  const float *weight;        // packed, matrices of the algorithm
  const float *energy;        // packed [in, out]     sum of squares per filter
  const float *bias;          // [out]
  const float *affine;        // packed [style_dim, in]
  const float *affine_bias;   // [in]
  const float *rgb_weight;    // [3, out], or null
  const float *rgb_affine;    // packed [style_dim, out]
  const float *rgb_affine_bias;  // [out]
  const float *rgb_bias;      // [3]
  const float *edge_weight;   // strips with up: packed [2 in, out], taps (0, 2) and (2, 2), then [in, out], tap (1, 2)
  float noise_strength;
};

// Fully connected layers with leaky ReLU behind a normalisation to unit mean square.
struct Mapping {
  struct Layer { const float *weight, *bias; };  // packed [style_dim, features] and [features], with their gains
  std::vector<Layer> layers;
  int64_t features;
};

struct Kernels;

// Names of the instruction sets that are compiled in and run here, best first: "v4", "v3" (x86-64 levels), "generic".
std::vector<const char *> instruction_sets();

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
  const float *ws;                   // sample n, layer l at ws + n * w_sample + l * w_layer: [style_dim]
  int64_t w_sample, w_layer;
  std::vector<const float *> noise;  // per convolution: sample n at + n * noise_sample, [r, r]; null: none
  std::vector<int64_t> noise_sample;
  float *image;                      // [batch, 3, R, R]
  float *workspace;
  double *seconds;                   // [1 + convolutions]: styles and each convolution; or null
};

class Synthesis {
 public:
  // constant: [16, in of the first convolution]. fir: taps of the up-sampling filter in the order of a correlation,
  // scaled to a sum of 2. clamp: bound of what every convolution and toRGB gives; infinity for none.
  Synthesis(std::vector<StyledConv> convs, Mapping mapping, const float *constant, int64_t style_dim, const float *fir,
            float clamp, const Kernels &kernels, int64_t batch, int threads);
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
