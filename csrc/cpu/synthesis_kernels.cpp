// The vector loops of the synthesis network. CMake compiles this file once for each instruction set, CAGC_KERNELS being
// the name of the table that it defines; everything else here has internal linkage and calls nothing that is shared, or
// the linker might keep an AVX-512 copy for a processor without it.
#pragma GCC diagnostic ignored "-Wpsabi"
#include "synthesis/filter.h"
#include "synthesis/gemm.h"

#ifndef CAGC_KERNELS
#define CAGC_KERNELS kernels_generic
#endif
#define CAGC_TEXT(name) #name
#define CAGC_NAME(name) CAGC_TEXT(name)

namespace cagc {

extern const Kernels CAGC_KERNELS;
const Kernels CAGC_KERNELS = {CAGC_NAME(CAGC_KERNELS), panel_count, pack, gemm, input, output, filter, skip};

}  // namespace cagc
