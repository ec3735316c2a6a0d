// The flat student file, read with every size and offset checked before it is used. docs/edge.md describes it.
#pragma once
#include "cagc/c_api.h"
#include "cagc/packing.h"
#include <cstdarg>
#include <memory>
#include <string>
#include <vector>

namespace cagc {

// What a call that failed says.
struct Failure {
  cagc_status status = CAGC_OK;
  char message[256] = "";

  // Notes the failure, in the manner of printf; returns false.
  bool set(cagc_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));
  bool set_from(cagc_status status, const char *format, va_list values);
};

enum class FlatType : uint32_t { float32 = 0, float16, int8_rows, int32, bytes };

// One array of the file.
struct FlatArray {
  const char *name;
  FlatType type;
  uint32_t axes;
  uint32_t shape[4];
  const uint8_t *data;
  uint64_t bytes;

  uint64_t count() const { return uint64_t{shape[0]} * shape[1] * shape[2] * shape[3]; }
};

// The arrays of a file that lies in memory.
class FlatFile {
 public:
  // Checks the header, the checksum and the table; false if something is wrong with them.
  bool open(const uint8_t *data, uint64_t bytes, Failure &failure);

  const FlatArray *find(const std::string &name) const;  // null: the file has none of this name

  // An array of this shape, in a type for numbers; int8 rows only where `rows`. False if the file has none.
  bool numbers(const std::string &name, std::vector<uint32_t> shape, bool rows, std::vector<double> &values,
               Failure &failure) const;
  bool integers(const std::string &name, std::vector<uint32_t> shape, std::vector<int32_t> &values,
                Failure &failure) const;
  std::string text(const std::string &name) const;  // "" if the file has none

 private:
  const FlatArray *shaped(const std::string &name, const std::vector<uint32_t> &shape, Failure &failure) const;
  bool header(const uint8_t *data, uint64_t bytes, Failure &failure) const;
  std::vector<FlatArray> arrays_;
};

// What a student's file holds, packed for the kernels.
struct Student {
  struct Direction {
    std::string name;
    float scale;
    std::vector<float> vector;  // [w_dim]
  };

  int32_t z_dim = 0, w_dim = 0, num_ws = 0;
  bool mapping = false;
  std::unique_ptr<PackedNetwork> network;
  std::vector<std::vector<float>> noise;  // a map [r, r] for each convolution, or empty
  std::vector<float> w_avg;
  std::vector<Direction> directions;
  std::string licence, thumbnails;
};

// Reads a student from a file in memory, which may be freed afterwards.
bool read_student(const uint8_t *data, uint64_t bytes, const Kernels &kernels, Student &student, Failure &failure);

}  // namespace cagc
