// Filters in the form of Winograd's F(4x4, 3x3): Lavin and Gray, "Fast algorithms for convolutional neural networks",
// CVPR 2016.
#pragma once
#include <cstdint>
#include <vector>

namespace cagc {

// F(4, 3) of three taps at the points 0, 1, -1, 2, -2 and infinity: the polynomial of the taps at each point, divided
// by the product of its distances to the others.
inline void filter43(const double *taps, int64_t step, double *values) {
  constexpr double points[] = {0, 1, -1, 2, -2};
  for (int i = 0; i < 5; i++) {
    double distances = 1;
    for (int j = 0; j < 5; j++) distances *= i == j ? 1 : points[i] - points[j];
    values[i] = (taps[0] + points[i] * (taps[step] + points[i] * taps[2 * step])) / distances;
  }
  values[5] = taps[2 * step];
}

// The 36 matrices [rows, columns] of a weight [out, in, 3, 3], one of each point; rows from `in` on and columns from
// `out` on are zero.
inline std::vector<float> filters43(const double *weight, int64_t in, int64_t out, int64_t rows, int64_t columns) {
  std::vector<float> dense(36 * rows * columns);
  for (int64_t o = 0; o < out; o++)
    for (int64_t i = 0; i < in; i++) {
      double along_y[18], values[6];  // [6, 3]
      for (int x = 0; x < 3; x++) {
        filter43(weight + (o * in + i) * 9 + x, 3, values);
        for (int a = 0; a < 6; a++) along_y[a * 3 + x] = values[a];
      }
      for (int a = 0; a < 6; a++) {
        filter43(along_y + a * 3, 1, values);
        for (int b = 0; b < 6; b++)
          dense[((a * 6 + b) * rows + i) * columns + o] = static_cast<float>(values[b]);
      }
    }
  return dense;
}

}  // namespace cagc
