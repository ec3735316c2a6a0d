// Which kernels run here, and memory laid out for them.
#include "cagc/synthesis.h"
#include "synthesis/kernels.h"
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
  constexpr int collapse = 25;  // MADV_COLLAPSE of Linux 6.1: what was touched before, too
  if (begin >= end) return;
  madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
  madvise(reinterpret_cast<void *>(begin), end - begin, collapse);
#else
  (void)memory, (void)bytes;
#endif
}

std::vector<const char *> instruction_sets() {
  std::vector<const char *> names;
#if defined(CAGC_X86_LEVELS)
  if (__builtin_cpu_supports("x86-64-v4")) names.push_back("v4");
  if (__builtin_cpu_supports("x86-64-v3")) names.push_back("v3");
#endif
  names.push_back("generic");
  return names;
}

const Kernels *find_kernels(const char *instructions) {
  for (const char *name : instruction_sets()) {
    if (std::strcmp(name, instructions)) continue;
#if defined(CAGC_X86_LEVELS)
    if (!std::strcmp(name, "v4")) return &kernels_v4;
    if (!std::strcmp(name, "v3")) return &kernels_v3;
#endif
    return &kernels_generic;
  }
  return nullptr;
}

void pack_matrix(const Kernels &kernels, const float *matrix, int64_t k, int64_t columns, float *packed) {
  kernels.pack(matrix, k, columns, packed);
}

void pack_strips(const Kernels &kernels, const float *matrix, int64_t k, int64_t columns, float *packed) {
  kernels.pack_strips(matrix, k, columns, packed);
}

int64_t lanes_of(const Kernels &kernels) { return kernels.lanes; }

}  // namespace cagc
