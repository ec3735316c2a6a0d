// The emulated launchers under a C ABI, on the structs of csrc/include: null, or the message of an error.
#pragma once
#include <cstddef>
#include <cstdint>

#define CAGC_ENTRY extern "C" __attribute__((visibility("default")))

constexpr const char *kStale = "the compiled module has another struct: build it again";
