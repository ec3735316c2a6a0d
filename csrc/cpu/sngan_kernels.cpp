// The vector loops of SN-GAN, for one row of isa/levels.cpp.
#pragma GCC diagnostic ignored "-Wpsabi"
#include "synthesis/residual.h"

namespace cagc {
namespace CAGC_LEVEL {
extern const ResidualKernels residual_kernels = {residual_input, residual_output};
}
}  // namespace cagc
