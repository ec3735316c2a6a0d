// Memory for vectors, which begins at a multiple of 64 bytes.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace cagc {

[[noreturn]] inline void no_memory() {
#if defined(__cpp_exceptions)
  throw std::bad_alloc();
#else
  std::abort();
#endif
}

class AlignedFloats {
 public:
  AlignedFloats() = default;
  explicit AlignedFloats(int64_t floats, bool zeros = true) {
    const uint64_t bytes = static_cast<uint64_t>(floats) * sizeof(float);
    if (bytes > SIZE_MAX / 2 || !(block_ = std::malloc(bytes + kAlignment))) no_memory();
    data_ = reinterpret_cast<float *>((reinterpret_cast<uintptr_t>(block_) / kAlignment + 1) * kAlignment);
    if (zeros) std::memset(data_, 0, bytes);
  }
  AlignedFloats(AlignedFloats &&other) noexcept { swap(other); }
  AlignedFloats &operator=(AlignedFloats &&other) noexcept { return swap(other), *this; }
  ~AlignedFloats() { std::free(block_); }

  float *data() const { return data_; }

 private:
  static constexpr uintptr_t kAlignment = 64;
  void swap(AlignedFloats &other) {
    void *block = block_;
    float *data = data_;
    block_ = other.block_, data_ = other.data_, other.block_ = block, other.data_ = data;
  }
  void *block_ = nullptr;
  float *data_ = nullptr;
};

}  // namespace cagc
