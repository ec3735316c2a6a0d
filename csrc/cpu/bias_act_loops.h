// The vector loops of bias_act, which CMake compiles once for each instruction set.
#pragma once
#include "cagc/bias_act.h"

namespace cagc {

// Adjacent elements. The bias of element i, and the sum of its results, are at index i * step. With step 0 all elements
// share one value, which is stored once per lane of a vector. Both are of the accumulate type.
struct BiasActRun {
  const void *u, *g, *h, *b;
  void *out, *sums;
  int64_t n, step;
  bool stream;  // use non-temporal stores where out is aligned for them
};

constexpr int kMostLanes = 16;

using BiasActLoop = void (*)(const BiasAct &, const BiasActRun &);

// Only Pass::gradient writes `sums`, and only if it is not null.
struct BiasActLoops {
  BiasActLoop loops[4][9][3];  // [dtype][act][pass]
  BiasActLoop find(DType dtype, Act act, Pass pass) const {
    return loops[static_cast<int>(dtype)][static_cast<int>(act)][static_cast<int>(pass)];
  }
};

}  // namespace cagc
