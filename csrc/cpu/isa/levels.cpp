// The instruction sets that kernels are compiled for, best first, and which of them this processor runs. To add one: a
// row here, its flags in CMakeLists.txt and its vectors in simd.h.
//
// CMake compiles each file of kernels once for every row and links the rows from the lowest instruction set up: of a
// function that several objects contain (such as one of std::vector), the linker keeps the first, which must run on
// every processor.
#include "../synthesis/kernels.h"
#include "cagc/bias_act.h"
#include "cagc/epilogue.h"
#include "cagc/filtered_lrelu.h"
#include "cagc/sparse_channel_conv2d.h"
#include "cagc/synthesis.h"
#include "cagc/upfirdn2d.h"
#include <cstring>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cagc {

void prefer_huge_pages(void *memory, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
  constexpr int collapse = 25;  // MADV_COLLAPSE of Linux 6.1: also for pages that were touched before
  if (begin >= end) return;
  madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
  madvise(reinterpret_cast<void *>(begin), end - begin, collapse);
#else
  (void)memory, (void)bytes;
#endif
}

#define CAGC_DECLARE(LEVEL)                                                   \
  namespace LEVEL {                                                           \
  extern const Kernels kernels;                                               \
  void bias_act(const BiasAct &, int threads);                                \
  void epilogue(const Epilogue &, int threads);                               \
  void filtered_lrelu(const FilteredLrelu &, int threads);                    \
  void sparse_channel_conv2d(const SparseChannelConv2d &, int threads);       \
  void upfirdn2d(const Upfirdn2d &, int threads);                             \
  }
CAGC_DECLARE(generic)
#if defined(CAGC_X86_LEVELS)
CAGC_DECLARE(v3)
CAGC_DECLARE(v4)
#endif

namespace {

struct Level {
  const char *name;
  bool runs;  // on this processor
  const Kernels &synthesis;
  void (*bias_act)(const BiasAct &, int threads);
  void (*epilogue)(const Epilogue &, int threads);
  void (*filtered_lrelu)(const FilteredLrelu &, int threads);
  void (*sparse_channel_conv2d)(const SparseChannelConv2d &, int threads);
  void (*upfirdn2d)(const Upfirdn2d &, int threads);
};

#define CAGC_ROW(LEVEL, RUNS)                                                                     \
  {#LEVEL, RUNS, LEVEL::kernels, LEVEL::bias_act, LEVEL::epilogue, LEVEL::filtered_lrelu,         \
   LEVEL::sparse_channel_conv2d, LEVEL::upfirdn2d}

// Tests levels instead of models: GCC compares arch=haswell and arch=skylake-avx512 with the processor's model.
const Level kLevels[] = {
#if defined(CAGC_X86_LEVELS)
    CAGC_ROW(v4, __builtin_cpu_supports("x86-64-v4") != 0),
    CAGC_ROW(v3, __builtin_cpu_supports("x86-64-v3") != 0),
#endif
    CAGC_ROW(generic, true),
};

const Level *first(const char *name) {
  for (const Level &level : kLevels)
    if (level.runs && (!name || !std::strcmp(level.name, name))) return &level;
  return nullptr;
}

const Level *current = first(nullptr);

}  // namespace

std::vector<const char *> instruction_sets() {
  std::vector<const char *> names;
  for (const Level &level : kLevels)
    if (level.runs) names.push_back(level.name);
  return names;
}

bool use_instructions(const char *name) {
  const Level *level = first(name);
  if (level) current = level;
  return level;
}

const Kernels *find_kernels(const char *instructions) {
  const Level *level = first(instructions);
  return level ? &level->synthesis : nullptr;
}

void bias_act_cpu(const BiasAct &p, int threads) { current->bias_act(p, threads); }
void upfirdn2d_cpu(const Upfirdn2d &p, int threads) { current->upfirdn2d(p, threads); }
void filtered_lrelu_cpu(const FilteredLrelu &p, int threads) { current->filtered_lrelu(p, threads); }
void epilogue_cpu(const Epilogue &p, int threads) { current->epilogue(p, threads); }
void sparse_channel_conv2d_cpu(const SparseChannelConv2d &p, int threads) {
  current->sparse_channel_conv2d(p, threads);
}

void pack_matrix(const Kernels &kernels, const float *matrix, int64_t k, int64_t columns, float *packed) {
  kernels.pack(matrix, k, columns, packed);
}

void pack_strips(const Kernels &kernels, const float *matrix, int64_t k, int64_t columns, float *packed) {
  kernels.pack_strips(matrix, k, columns, packed);
}

int64_t lanes_of(const Kernels &kernels) { return kernels.lanes; }

}  // namespace cagc
