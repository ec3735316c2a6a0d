// The instruction set that the ops run with.
#pragma once
#include <cstddef>

namespace cagc {

// Its row in levels.cpp, best first.
size_t current_level();

}  // namespace cagc
