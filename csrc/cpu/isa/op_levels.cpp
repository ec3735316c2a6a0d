// The ops of every instruction set, in the order of levels.cpp. The C interface does without this file.
#include "../synthesis/planar_kernels.h"
#include "../synthesis/residual_kernels.h"
#include "cagc/bias_act.h"
#include "cagc/epilogue.h"
#include "cagc/filtered_lrelu.h"
#include "cagc/sparse_channel_conv2d.h"
#include "cagc/upfirdn2d.h"
#include "levels.h"
#include <cstring>

namespace cagc {

#define CAGC_DECLARE(LEVEL)                                                   \
  namespace LEVEL {                                                           \
  void bias_act(const BiasAct &, int threads);                                \
  void epilogue(const Epilogue &, int threads);                               \
  void filtered_lrelu(const FilteredLrelu &, int threads);                    \
  void sparse_channel_conv2d(const SparseChannelConv2d &, int threads);       \
  void upfirdn2d(const Upfirdn2d &, int threads);                             \
  extern const ResidualKernels residual_kernels;                              \
  extern const PlanarKernels planar_kernels;                                  \
  }
CAGC_DECLARE(generic)
#if defined(CAGC_X86_LEVELS)
CAGC_DECLARE(v3)
CAGC_DECLARE(v4)
#endif

namespace {

struct Ops {
  void (*bias_act)(const BiasAct &, int threads);
  void (*epilogue)(const Epilogue &, int threads);
  void (*filtered_lrelu)(const FilteredLrelu &, int threads);
  void (*sparse_channel_conv2d)(const SparseChannelConv2d &, int threads);
  void (*upfirdn2d)(const Upfirdn2d &, int threads);
  const char *name;
  const ResidualKernels &residual;
  const PlanarKernels &planar;
};

#define CAGC_ROW(LEVEL) \
  { LEVEL::bias_act, LEVEL::epilogue, LEVEL::filtered_lrelu, LEVEL::sparse_channel_conv2d, LEVEL::upfirdn2d, \
    #LEVEL, LEVEL::residual_kernels, LEVEL::planar_kernels }

const Ops kOps[] = {
#if defined(CAGC_X86_LEVELS)
    CAGC_ROW(v4),
    CAGC_ROW(v3),
#endif
    CAGC_ROW(generic),
};

const Ops &ops() { return kOps[current_level()]; }

const Ops *find_ops(const char *instructions) {
  if (!find_kernels(instructions)) return nullptr;
  for (const Ops &row : kOps)
    if (!std::strcmp(row.name, instructions)) return &row;
  return nullptr;
}

}  // namespace

const ResidualKernels *find_residual_kernels(const char *instructions) {
  const Ops *row = find_ops(instructions);
  return row ? &row->residual : nullptr;
}

const PlanarKernels *find_planar_kernels(const char *instructions) {
  const Ops *row = find_ops(instructions);
  return row ? &row->planar : nullptr;
}

void bias_act_cpu(const BiasAct &p, int threads) { ops().bias_act(p, threads); }
void upfirdn2d_cpu(const Upfirdn2d &p, int threads) { ops().upfirdn2d(p, threads); }
void epilogue_cpu(const Epilogue &p, int threads) { ops().epilogue(p, threads); }
void filtered_lrelu_cpu(const FilteredLrelu &p, int threads) { ops().filtered_lrelu(p, threads); }
void sparse_channel_conv2d_cpu(const SparseChannelConv2d &p, int threads) { ops().sparse_channel_conv2d(p, threads); }

}  // namespace cagc
