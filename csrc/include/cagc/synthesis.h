// The synthesis network of StyleGAN2 as one call: float32, with frozen, packed weights. Activations are NHWC with
// channels padded to a multiple of kLanes; those of large images are stored in strips (csrc/cpu/synthesis/strips.h).
// Padding channels of weights, biases and affine layers are zero.
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace cagc {

constexpr int64_t kLanes = 8;

// How a convolution becomes matrix products:
//   direct3        pixels, one product over 9 taps
//   winograd43     F(4x4, 3x3): tiles of 4x4 outputs, 36 points
//   transposed2    stride-2 transposed convolution, one product per output parity (1, 2, 2 and 4 taps), then the FIR
//   winograd42     the same, its parities of 2 taps by F(4, 2): tiles of 4x4 inputs, 81 points on 36 matrices
enum class Algorithm : int64_t { direct3 = 0, winograd43, transposed2, winograd42 };

// How a fully connected layer's weights are stored. They are widened to float32 in registers.
//   float16  finite weights; multiples of a scale, by which weights that are float16 times a gain are kept exactly
//   int8     finite weights; multiples of a scale of each column, its largest magnitude / 127
enum class Storage : int64_t { float32 = 0, float16, int8 };

constexpr int64_t bytes_of(Storage storage) {
  return storage == Storage::float32 ? 4 : storage == Storage::float16 ? 2 : 1;
}

// A fully connected layer [k, columns].
struct Dense {
  const void *weight = nullptr;  // packed by pack_dense
  const float *scale = nullptr;  // [columns], or null for float32
  const float *bias = nullptr;   // [columns], or null
  Storage storage = Storage::float32;
};

// One styled 3x3 convolution and, if rgb_weight is given, the toRGB that follows it. Matrices are packed by
// pack_matrix, those of affine layers by pack_dense. Gains are already multiplied in: equalised learning rate, and the
// activation's sqrt(2) in `bias` and `noise_strength`.
struct StyledConv {
  Algorithm algorithm = Algorithm::direct3;
  int64_t up = 1;          // 1 or 2
  int64_t resolution = 0;  // of the output, in pixels
  int64_t strips = 1;      // 1: vectors hold channels; lanes_of(kernels): vectors hold pixels
  int64_t in = 0, out = 0;  // stored channels, padded where vectors hold channels
  int64_t in_padded = 0, out_padded = 0;
  int64_t w = 0, rgb_w = 0;                // index of the affine layers' input in ws
  const float *weight = nullptr;           // packed, matrices of the algorithm
  const float *energy = nullptr;           // packed [in, out]     sum of squares per filter
  const float *bias = nullptr;             // [out]
  Dense affine;                            // [style_dim, in]
  const float *rgb_weight = nullptr;       // [3, out], or null
  Dense rgb_affine;                        // [style_dim, out]
  const float *rgb_bias = nullptr;         // [3]
  // Strips with up: packed [2 in, out], taps (0, 2) and (2, 2), then [in, out], tap (1, 2).
  const float *edge_weight = nullptr;
  float noise_strength = 0;
};

// The mapping network: normalises z to unit mean square, then applies fully connected layers with leaky ReLU.
struct Mapping {
  std::vector<Dense> layers;  // [style_dim, features], with their gains
  int64_t features = 0;
};

struct SynthesisNetwork {
  std::vector<StyledConv> convs;
  Mapping mapping;
  const float *constant = nullptr;  // [16, in of the first convolution]
  int64_t style_dim = 0;
  float fir[4] = {};  // taps of the up-sampling filter in the order of a correlation, scaled to a sum of 2
  float clamp = std::numeric_limits<float>::infinity();  // bound of the outputs of convolutions and toRGB
};

struct Kernels;

// Names of the compiled instruction sets that this processor supports, best first: "v4", "v3" (x86-64 levels),
// "generic".
std::vector<const char *> instruction_sets();

// Makes all ops use the kernels of this instruction set instead of the best one, for tests and benchmarks. Must not be
// called while an op runs. Returns false if it is not one of instruction_sets().
bool use_instructions(const char *name);

// Returns the kernels of an instruction set, or null if it is not one of instruction_sets().
const Kernels *find_kernels(const char *instructions);

// Packs a dense matrix [k, columns] into the layout that the kernels read. pack_matrix requires columns to be a
// multiple of kLanes; pack_strips is for layers in strips and takes any number of columns.
void pack_matrix(const Kernels &kernels, const float *matrix, int64_t k, int64_t columns, float *packed);
void pack_strips(const Kernels &kernels, const float *matrix, int64_t k, int64_t columns, float *packed);

// The same for a fully connected layer: k * columns numbers of `storage`. scale: [columns], not written for float32.
void pack_dense(const Kernels &kernels, Storage storage, const float *matrix, int64_t k, int64_t columns, void *packed,
                float *scale);

// Floats per vector of the kernels.
int64_t lanes_of(const Kernels &kernels);

// Requests 2 MB pages for memory that has not been touched yet: the points of a Winograd tile lie in one small page
// each, more than the first-level TLB holds. Only a hint: it has no effect where huge pages are unavailable.
void prefer_huge_pages(void *memory, size_t bytes);

struct SynthesisCall {
  // [r, r] of sample n at data + n * sample; data null: no noise
  struct Noise { const float *data; int64_t sample; };

  const float *ws = nullptr;  // sample n, layer l at ws + n * w_sample + l * w_layer: [style_dim]
  int64_t w_sample = 0, w_layer = 0;
  // Or latents [batch, style_dim]: w_avg + psi (w - w_avg) for the ws before `cutoff` (all where it is negative), the
  // mapping network's w for the others. w_avg [style_dim] is read unless psi is 1.
  const float *z = nullptr, *w_avg = nullptr;
  float psi = 1;
  int64_t cutoff = -1;
  std::vector<Noise> noise;   // per convolution
  float *image = nullptr;     // [batch, 3, R, R]
  float *workspace = nullptr;
  double *seconds = nullptr;  // [1 + convolutions]: styles and each convolution; or null
  size_t layers = 0;  // only the first ones, up to one with toRGB, whose resolution is then the image's; 0: all
};

class Synthesis {
 public:
  Synthesis(SynthesisNetwork network, const Kernels &kernels, int64_t batch, int threads);
  ~Synthesis();

  size_t layers() const;
  int64_t workspace() const;      // floats that map() and run() need, 64-byte aligned
  int64_t map_workspace() const;  // floats that map() alone needs
  void map(const float *z, float *w, float *workspace) const;  // z [batch, style_dim] -> w [batch, padded style_dim]
  void run(const SynthesisCall &call) const;

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

}  // namespace cagc
