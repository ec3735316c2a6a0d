// The vector loops of the synthesis network, for one row of isa/levels.cpp.
#pragma GCC diagnostic ignored "-Wpsabi"
#include "synthesis/dense.h"
#include "synthesis/strips_filter.h"

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

namespace CAGC_LEVEL {
extern const Kernels kernels = {
    kWide, panel_count, pack, gemm, dense_panels, pack_dense, dense, any_input, any_output, any_filter, skip,
    row_blocks, pack_strips, gemm_strips, to_strips, edge_strips};
}

}  // namespace cagc
