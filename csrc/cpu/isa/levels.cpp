// The instruction sets that kernels are compiled for, best first, and which of them this processor runs. To add one: a
// row here and in op_levels.cpp, its flags in CMakeLists.txt and its vectors in simd.h.
//
// CMake compiles each file of kernels once for every row and links the rows from the lowest instruction set up: of a
// function that several objects contain (such as one of std::vector), the linker keeps the first, which must run on
// every processor.
#include "levels.h"
#include "../synthesis/kernels.h"
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

#define CAGC_DECLARE(LEVEL) namespace LEVEL { extern const Kernels kernels; }
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
};

#if defined(CAGC_X86_LEVELS)
// Of the features of x86-64-v3 and v4, those that every compiler can ask for: processors that have them have the rest.
// Tests features instead of models: GCC compares arch=haswell and arch=skylake-avx512 with the processor's model.
bool runs_v3() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
bool runs_v4() {
  return runs_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const Level kLevels[] = {
#if defined(CAGC_X86_LEVELS)
    {"v4", runs_v4(), v4::kernels},
    {"v3", runs_v3(), v3::kernels},
#endif
    {"generic", true, generic::kernels},
};

const Level *first(const char *name) {
  for (const Level &level : kLevels)
    if (level.runs && (!name || !std::strcmp(level.name, name))) return &level;
  return nullptr;
}

const Level *current = first(nullptr);

}  // namespace

size_t current_level() { return current - kLevels; }

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

void pack_matrix(const Kernels &kernels, const float *matrix, int64_t k, int64_t columns, float *packed) {
  kernels.pack(matrix, k, columns, packed);
}

void pack_strips(const Kernels &kernels, const float *matrix, int64_t k, int64_t columns, float *packed) {
  kernels.pack_strips(matrix, k, columns, packed);
}

void pack_dense(const Kernels &kernels, Storage storage, const float *matrix, int64_t k, int64_t columns, void *packed,
                float *scale) {
  kernels.pack_dense(storage, matrix, k, columns, packed, scale);
}

int64_t lanes_of(const Kernels &kernels) { return kernels.lanes; }

}  // namespace cagc
