#include "cagc/filtered_lrelu.h"
#include "entry.h"

CAGC_ENTRY const char *filtered_lrelu(const cagc::FilteredLrelu *p, size_t size) {
  return size == sizeof(*p) ? cagc::filtered_lrelu_cuda(*p, nullptr) : kStale;
}
