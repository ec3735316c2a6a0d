// The vector loops of a convolution of images in planes, for one row of isa/levels.cpp.
#pragma GCC diagnostic ignored "-Wpsabi"
#include "synthesis/planar.h"

namespace cagc {
namespace CAGC_LEVEL {
extern const PlanarKernels planar_kernels = {planar_input, planar_output, planar_multiply};
}
}  // namespace cagc
