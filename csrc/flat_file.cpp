// Reads flat student files. A file is not trusted: no allocation is larger than its own bytes justify.
#include "flat_file.h"
#include <algorithm>
#include <cstdio>
#include <cstring>

namespace cagc {
namespace {

constexpr char kMagic[] = "CAGCFLAT", kArchitecture[] = "stylegan2";
constexpr uint64_t kHeader = 64, kEntry = 96, kMaxArrays = 4096;
constexpr size_t kName = 48, kArchitectureName = 32;

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the arrays are copied as they are in the file");

template <class T> T read(const uint8_t *from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// CRC-32 as zlib computes it, eight bytes at a time.
uint32_t crc32(const uint8_t *data, uint64_t bytes) {
  static const auto tables = [] {
    std::vector<uint32_t> t(8 * 256);
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
      t[i] = crc;
    }
    for (int k = 1; k < 8; k++)
      for (int i = 0; i < 256; i++) t[k * 256 + i] = t[(k - 1) * 256 + i] >> 8 ^ t[t[(k - 1) * 256 + i] & 255];
    return t;
  }();
  uint32_t crc = ~0u;
  for (; bytes >= 8; data += 8, bytes -= 8) {
    const uint32_t low = crc ^ read<uint32_t>(data), high = read<uint32_t>(data + 4);
    crc = 0;
    for (int i = 0; i < 4; i++)
      crc ^= tables[(7 - i) * 256 + (low >> 8 * i & 255)] ^ tables[(3 - i) * 256 + (high >> 8 * i & 255)];
  }
  for (; bytes; data++, bytes--) crc = crc >> 8 ^ tables[(crc ^ *data) & 255];
  return ~crc;
}

float half(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
  if (exponent == 0) {
    const float small = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -small : small;
  }
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

uint64_t bytes_of(const FlatArray &a) {
  switch (a.type) {
    case FlatType::float16: return 2 * a.count();
    case FlatType::int8_rows: return a.count() + 4 * uint64_t{a.shape[0]};
    case FlatType::bytes: return a.count();
    default: return 4 * a.count();
  }
}

std::string shape_of(const std::vector<uint32_t> &shape) {
  std::string text = "[";
  for (uint32_t n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + "]";
}

}  // namespace

bool Failure::set(cagc_status kind, const char *format, ...) {
  va_list values;
  va_start(values, format);
  set_from(kind, format, values);
  va_end(values);
  return false;
}

bool Failure::set_from(cagc_status kind, const char *format, va_list values) {
  status = kind;
  std::vsnprintf(message, sizeof(message), format, values);
  return false;
}

bool FlatFile::header(const uint8_t *data, uint64_t bytes, Failure &failure) const {
  using ull = unsigned long long;
  if (bytes < 8 || std::memcmp(data, kMagic, 8))
    return failure.set(CAGC_FILE, "file: got something else, expected a flat student file, which begins with %s",
                       kMagic);
  if (bytes < kHeader)
    return failure.set(CAGC_FILE, "file: got %llu bytes, expected a header of %llu: truncated", ull(bytes),
                       ull(kHeader));
  const uint32_t version = read<uint32_t>(data + 8);
  if (version != CAGC_FILE_VERSION)
    return failure.set(CAGC_UNSUPPORTED, "file version: got %u, expected %d: %s", version, CAGC_FILE_VERSION,
                       version > CAGC_FILE_VERSION ? "update the library, or export the student again"
                                                   : "export the student again");
  const uint64_t expected = read<uint64_t>(data + 16);
  if (expected != bytes)
    return failure.set(CAGC_FILE, "file: got %llu bytes, expected %llu: %s", ull(bytes), ull(expected),
                       bytes < expected ? "truncated" : "damaged");
  if (crc32(data + 16, bytes - 16) != read<uint32_t>(data + 12))
    return failure.set(CAGC_FILE, "file: got another checksum, expected that of its header: damaged");
  if (std::memchr(data + 32, 0, kArchitectureName) == nullptr)
    return failure.set(CAGC_FILE, "architecture: got a name without an end, expected one below 32 bytes: damaged");
  const char *architecture = reinterpret_cast<const char *>(data) + 32;
  if (std::strcmp(architecture, kArchitecture))
    return failure.set(CAGC_UNSUPPORTED, "architecture: got '%s', expected '%s'", architecture, kArchitecture);
  const uint64_t count = read<uint32_t>(data + 24);
  if (count > kMaxArrays || kHeader + count * kEntry > bytes)
    return failure.set(CAGC_FILE, "table: got %llu arrays, expected as many as the file has room for", ull(count));
  return true;
}

bool FlatFile::open(const uint8_t *data, uint64_t bytes, Failure &failure) {
  if (!header(data, bytes, failure)) return false;
  const uint64_t count = read<uint32_t>(data + 24), end_of_table = kHeader + count * kEntry;
  arrays_.reserve(count);
  for (uint64_t i = 0; i < count; i++) {
    const uint8_t *entry = data + kHeader + i * kEntry;
    FlatArray a{};
    a.name = reinterpret_cast<const char *>(entry);
    if (!*a.name || std::memchr(entry, 0, kName) == nullptr)
      return failure.set(CAGC_FILE, "table: got an array without a name, expected one below 48 bytes");
    const uint32_t type = read<uint32_t>(entry + 48);
    a.type = static_cast<FlatType>(type), a.axes = read<uint32_t>(entry + 52);
    if (type > static_cast<uint32_t>(FlatType::bytes) || a.axes < 1 || a.axes > 4)
      return failure.set(CAGC_FILE, "%s: got type %u with %u axes, expected type 0 to 4 with 1 to 4", a.name, type,
                         a.axes);
    uint64_t product = 1;  // below 2^64, for it is at most `bytes` before each multiplication
    for (uint32_t k = 0; k < 4; k++) {
      a.shape[k] = read<uint32_t>(entry + 56 + 4 * k);
      product *= a.shape[k];
      if (product == 0 || product > bytes || (k >= a.axes && a.shape[k] != 1))
        return failure.set(CAGC_FILE, "%s: got an axis of %u, expected a shape that the file has room for", a.name,
                           a.shape[k]);
    }
    const uint64_t offset = read<uint64_t>(entry + 72);
    a.bytes = read<uint64_t>(entry + 80);
    if (a.bytes != bytes_of(a) || offset % 16 || offset < end_of_table || offset > bytes || a.bytes > bytes - offset)
      return failure.set(CAGC_FILE, "%s: got an offset or a size that is off, expected an array inside the file",
                         a.name);
    a.data = data + offset;
    arrays_.push_back(a);
  }
  return true;
}

const FlatArray *FlatFile::find(const std::string &name) const {
  for (const FlatArray &a : arrays_)
    if (name == a.name) return &a;
  return nullptr;
}

const FlatArray *FlatFile::shaped(const std::string &name, const std::vector<uint32_t> &shape, Failure &failure) const {
  const FlatArray *a = find(name);
  if (!a) {
    failure.set(CAGC_FILE, "%s: got no such array, expected one of shape %s", name.c_str(), shape_of(shape).c_str());
  } else if (a->axes != shape.size() || !std::equal(shape.begin(), shape.end(), a->shape)) {
    const std::vector<uint32_t> got(a->shape, a->shape + a->axes);
    failure.set(CAGC_FILE, "%s: got shape %s, expected %s", name.c_str(), shape_of(got).c_str(),
                shape_of(shape).c_str());
  } else {
    return a;
  }
  return nullptr;
}

bool FlatFile::numbers(const std::string &name, std::vector<uint32_t> shape, bool rows, std::vector<double> &values,
                       Failure &failure) const {
  const FlatArray *a = shaped(name, shape, failure);
  if (!a) return false;
  if (a->type > FlatType::int8_rows || (a->type == FlatType::int8_rows && !rows))
    return failure.set(CAGC_FILE, "%s: got type %u, expected numbers in float32%s", name.c_str(),
                       static_cast<uint32_t>(a->type), rows ? ", float16 or int8 rows" : " or float16");
  const uint64_t count = a->count(), columns = count / a->shape[0];
  values.resize(count);
  const uint8_t *scales = a->data, *quantised = a->data + 4 * uint64_t{a->shape[0]};
  for (uint64_t i = 0; i < count; i++) {
    if (a->type == FlatType::float32) values[i] = read<float>(a->data + 4 * i);
    else if (a->type == FlatType::float16) values[i] = half(read<uint16_t>(a->data + 2 * i));
    else values[i] = static_cast<double>(read<float>(scales + 4 * (i / columns))) * static_cast<int8_t>(quantised[i]);
  }
  return true;
}

bool FlatFile::integers(const std::string &name, std::vector<uint32_t> shape, std::vector<int32_t> &values,
                        Failure &failure) const {
  const FlatArray *a = shaped(name, shape, failure);
  if (!a) return false;
  if (a->type != FlatType::int32)
    return failure.set(CAGC_FILE, "%s: got type %u, expected int32", name.c_str(), static_cast<uint32_t>(a->type));
  values.resize(a->count());
  std::memcpy(values.data(), a->data, a->bytes);
  return true;
}

std::string FlatFile::text(const std::string &name) const {
  const FlatArray *a = find(name);
  if (!a || a->type != FlatType::bytes) return "";
  return std::string(reinterpret_cast<const char *>(a->data), a->bytes);
}

}  // namespace cagc
