// The generator of SN-GAN as one call: float32, with frozen, packed weights. Miyato et al., "Spectral Normalization for
// Generative Adversarial Networks", ICLR 2018. z becomes a 4x4 image; each block doubles it by a convolution of the
// nearest up-sampled image and a second one, to which a 1x1 shortcut is added; batch normalisation and ReLU come before
// each convolution, tanh after the last.
#pragma once
#include "cagc/memory.h"
#include "cagc/synthesis.h"

namespace cagc {

struct ResidualKernels;

// Returns the kernels of an instruction set, or null if it is not one of instruction_sets().
const ResidualKernels *find_residual_kernels(const char *instructions);

// One 3x3 convolution: dense arrays. The convolutions of a block are first the up-sampling one, with the normalisation
// behind it folded in, then the one with a shortcut and with the normalisation that follows the sum. The last
// convolution of a network gives the image, and has neither.
struct ResidualConv {
  int64_t resolution = 0;          // of the output, in pixels
  int64_t in = 0, out = 0;         // channels
  int64_t shortcut_in = 0;         // channels of the shortcut's input, or 0
  const double *weight = nullptr;  // [out, in, 3, 3]
  const double *bias = nullptr;    // [out]; with a shortcut, its bias too
  const double *shortcut = nullptr;                 // [out, shortcut_in], or null
  const double *scale = nullptr, *shift = nullptr;  // [out] of the normalisation, or null
};

struct ResidualGenerator {
  int64_t z_dim = 0, width = 0;            // of the 4x4 image
  const double *projection = nullptr;      // [width, 4, 4, z_dim]
  const double *projection_bias = nullptr;          // [width, 4, 4]
  const double *scale = nullptr, *shift = nullptr;  // [width] of the first normalisation
  std::vector<ResidualConv> convs;
};

// What is wrong with the sizes of a generator, or null.
const char *why_not_residual(const ResidualGenerator &generator);

// Packed weights of a generator, whose algorithms are chosen for `batch` images.
class ResidualNetwork {
 public:
  ResidualNetwork(const Kernels &kernels, const ResidualKernels &loops, const ResidualGenerator &generator,
                  int64_t batch);

  const std::vector<StyledConv> &convs() const { return convs_; }  // algorithm, up, sizes, weight and bias
  size_t bytes() const { return bytes_; }

 private:
  friend class ResidualSynthesis;
  struct Sum { const float *shortcut = nullptr, *scale = nullptr, *shift = nullptr; int64_t in = 0; };
  float *own(int64_t floats);
  const float *vector(const double *from, int64_t count, int64_t padded);
  const float *matrix(const std::vector<float> &dense, int64_t k, int64_t columns);
  const float *filter(const ResidualConv &conv, const StyledConv &to);
  void add(const ResidualConv &conv, bool up, int64_t batch);

  const Kernels &kernels_;
  const ResidualKernels &loops_;
  int64_t z_dim_, width_;
  Dense projection_;
  Sum first_;
  std::vector<StyledConv> convs_;
  std::vector<Sum> sums_;  // of each convolution
  size_t bytes_ = 0;
  std::vector<AlignedFloats> memory_;
};

class ResidualSynthesis {
 public:
  ResidualSynthesis(const ResidualNetwork &network, int64_t batch, int threads);
  ~ResidualSynthesis();

  size_t bytes() const;  // of buffers
  // z [batch, z_dim] -> image [batch, 3, R, R]. seconds: [1 + convolutions], projection and each convolution; or null.
  void run(const float *z, float *image, double *seconds);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cagc
