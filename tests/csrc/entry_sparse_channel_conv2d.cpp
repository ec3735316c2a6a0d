#include "cagc/sparse_channel_conv2d.h"
#include "entry.h"

CAGC_ENTRY const char *sparse_channel_conv2d(const cagc::SparseChannelConv2d *p, size_t size) {
  return size == sizeof(*p) ? cagc::sparse_channel_conv2d_cuda(*p, nullptr) : kStale;
}
