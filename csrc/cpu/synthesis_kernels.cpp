// The vector loops of the synthesis network. CMake compiles this file once for each instruction set, CAGC_KERNELS being
// the name of the table that it defines; everything else here has internal linkage and calls nothing that is shared, or
// the linker might keep an AVX-512 copy for a processor without it.
#pragma GCC diagnostic ignored "-Wpsabi"
#include "synthesis/strips.h"

#ifndef CAGC_KERNELS
#define CAGC_KERNELS kernels_generic
#endif
#define CAGC_TEXT(name) #name
#define CAGC_NAME(name) CAGC_TEXT(name)

namespace cagc {

namespace {

bool in_strips(const ConvJob &job) { return job.conv->strips > 1; }

void any_input(const ConvJob &job, const Block &block, int64_t begin, int64_t end, float *scratch) {
  (in_strips(job) ? input_strips : input)(job, block, begin, end, scratch);
}

void any_output(const ConvJob &job, const Block &block, int64_t begin, int64_t end, float *scratch) {
  (in_strips(job) ? output_strips : output)(job, block, begin, end, scratch);
}

void any_filter(const ConvJob &job, int64_t begin, int64_t end, float *scratch) {
  (in_strips(job) ? filter_strips : filter)(job, begin, end, scratch);
}

}  // namespace

extern const Kernels CAGC_KERNELS;
const Kernels CAGC_KERNELS = {CAGC_NAME(CAGC_KERNELS), kWide, panel_count, pack, gemm, any_input, any_output,
                              any_filter, skip, row_blocks, pack_strips, gemm_strips, to_strips, edge_strips};

}  // namespace cagc
