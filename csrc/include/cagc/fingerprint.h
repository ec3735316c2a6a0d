// A 64-bit fingerprint of a tensor's bits, by which packed weights know that their tensor is unchanged.
#pragma once
#include <cstdint>

namespace cagc {

// Values that differ in one or two adjacent floats never have the same fingerprint; others have it with a probability
// of about 2^-64. It does not depend on the number of threads.
uint64_t fingerprint(const float *values, int64_t count, int threads);

}  // namespace cagc
