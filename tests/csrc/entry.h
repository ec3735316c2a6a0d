// The emulated launchers under a C ABI, with the arguments of csrc/module.cpp: null, or the message of an error.
#pragma once
#include <cstdint>

#define CAGC_ENTRY extern "C" __attribute__((visibility("default")))

using Pointer = std::uintptr_t;

inline const void *in(Pointer p) { return reinterpret_cast<const void *>(p); }
inline void *out_of(Pointer p) { return reinterpret_cast<void *>(p); }
