// Entry points of planted.cu: null, or the message of the error that the launch ended in.
#pragma once

namespace cagc {

// x and out: [tiles * 64].
const char *planted_none(const float *x, float *out, int tiles);
const char *planted_before_reading(const float *x, float *out, int tiles);
const char *planted_before_overwriting(const float *x, float *out, int tiles);

enum class Fault : int {
  none, half_a_barrier, two_barriers, past_the_array, past_dynamic, misaligned, too_many_threads
};

// out: [64], aligned to 16 bytes.
const char *faulty(Fault fault, float *out);

}  // namespace cagc
