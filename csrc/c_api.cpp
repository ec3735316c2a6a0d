// The C interface: checks of arguments, and the memory of a generator, around Synthesis.
#include "cagc/c_api.h"
#include "cagc/memory.h"
#include "cpu/synthesis/team.h"
#include "flat_file.h"
#include "random.h"
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <exception>

#if !defined(CAGC_VERSION)
#error "CAGC_VERSION: the version of the package, as a string"
#endif

using cagc::AlignedFloats;
using cagc::Failure;

struct cagc_generator {
  cagc::Student student;
  std::unique_ptr<cagc::Synthesis> synthesis;
  int32_t threads = 1;
  AlignedFloats map_memory, workspace;
  bool has_workspace = false;
  std::string plan;

  int64_t features() const { return student.network->network().mapping.features; }
  int64_t resolution() const { return student.network->network().convs.back().resolution; }
  int64_t pixels() const { return resolution() * resolution(); }
  // The parts of a workspace, in floats: that of Synthesis, noise maps, an image.
  int64_t noise_at() const { return (synthesis->workspace() + 15) / 16 * 16; }
  int64_t image_at() const { return noise_at() + noise_floats(); }
  int64_t workspace_floats() const { return image_at() + 3 * pixels(); }
  int64_t noise_floats() const {
    int64_t floats = 0;
    for (const cagc::StyledConv &c : student.network->network().convs) floats += c.resolution * c.resolution;
    return (floats + 15) / 16 * 16;
  }
};

namespace {

constexpr int32_t kMaxThreads = 64;

thread_local Failure last;

__attribute__((format(printf, 2, 3))) cagc_status fail(cagc_status status, const char *format, ...) {
  va_list values;
  va_start(values, format);
  last.set_from(status, format, values);
  va_end(values);
  return status;
}

// Runs f, and turns what it throws into a status: nothing may be thrown into a caller in C.
template <class F> cagc_status guarded(F &&f) {
#if defined(__cpp_exceptions)
  try {
    return f();
  } catch (const std::bad_alloc &) {
    return fail(CAGC_MEMORY, "memory: got none, expected more to be free");
  } catch (const std::exception &error) {
    return fail(CAGC_ARGUMENT, "call: got an error, %s", error.what());
  } catch (...) {
    return fail(CAGC_ARGUMENT, "call: got an unknown error");
  }
#else
  return f();
#endif
}

cagc_status check_threads(int32_t threads) {
  if (threads < 1 || threads > kMaxThreads)
    return fail(CAGC_ARGUMENT, "threads: got %d, expected 1 to %d", threads, kMaxThreads);
  if (threads > 1 && !cagc::Team::available())
    return fail(CAGC_UNSUPPORTED, "threads: got %d, expected 1: this library was built without threads", threads);
  return CAGC_OK;
}

void use_threads(cagc_generator &g, int32_t threads) {
  const cagc::PackedNetwork &network = *g.student.network;
  g.synthesis = std::make_unique<cagc::Synthesis>(network.network(), network.kernels(), 1, threads);
  g.threads = threads;
  g.workspace = AlignedFloats(), g.has_workspace = false;
  g.map_memory = AlignedFloats(g.synthesis->map_workspace() + g.features());
}

std::string plan_of(const cagc::SynthesisNetwork &network, const char *instructions) {
  static const char *const names[] = {"direct3", "winograd43", "transposed2", "winograd42"};
  std::string plan = instructions;
  for (const cagc::StyledConv &c : network.convs) {
    plan += (&c == &network.convs.front() ? ": " : ", ") + std::to_string(c.resolution) + " px ";
    plan += names[static_cast<int>(c.algorithm)];
    if (c.strips > 1) plan += " in strips";
  }
  return plan;
}

cagc_status open_memory(const void *data, size_t bytes, int32_t threads, std::unique_ptr<cagc_generator> &opened) {
  if (!data) return fail(CAGC_ARGUMENT, "data: got NULL, expected the bytes of a file");
  if (const cagc_status status = check_threads(threads)) return status;
  auto g = std::make_unique<cagc_generator>();
  const char *instructions = cagc::instruction_sets().front();
  const cagc::Kernels &kernels = *cagc::find_kernels(instructions);
  if (!cagc::read_student(static_cast<const uint8_t *>(data), bytes, kernels, g->student, last)) return last.status;
  g->plan = plan_of(g->student.network->network(), instructions);
  use_threads(*g, threads);
  opened = std::move(g);
  return CAGC_OK;
}

cagc_status open_path(const char *path, int32_t threads, std::unique_ptr<cagc_generator> &opened) {
  if (!path) return fail(CAGC_ARGUMENT, "path: got NULL, expected the name of a file");
  std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path, "rb"), std::fclose);
  if (!file) return fail(CAGC_FILE, "%.120s: %s", path, std::strerror(errno));
  std::vector<uint8_t> data;
  const size_t block = 1 << 20;
  for (size_t got = block; got == block;) {
    const size_t end = data.size();
    data.resize(end + block);
    got = std::fread(data.data() + end, 1, block, file.get());
    data.resize(end + got);
    // A file of another kind is refused before the rest of it is read.
    if (!end && (got < 8 || std::memcmp(data.data(), "CAGCFLAT", 8))) break;
  }
  if (std::ferror(file.get())) return fail(CAGC_FILE, "%.120s: %s", path, std::strerror(errno));
  const uint8_t empty = 0;
  return open_memory(data.empty() ? &empty : data.data(), data.size(), threads, opened);
}

void to_rgba(const float *image, int64_t pixels, uint8_t *out) {
  for (int64_t i = 0; i < pixels; i++, out += 4) {
    for (int64_t c = 0; c < 3; c++) {
      const float v = image[c * pixels + i] * 127.5f + 128.f;  // rounded by the conversion
      out[c] = static_cast<uint8_t>(v >= 255.f ? 255.f : v >= 0.f ? v : 0.f);
    }
    out[3] = 255;
  }
}

// One map for each convolution, at `memory` where they are of a seed.
void noise_of(const cagc_generator &g, cagc_noise mode, uint64_t key, float *memory, cagc::SynthesisCall &call) {
  call.noise.clear();
  const auto &convs = g.student.network->network().convs;
  for (size_t i = 0; i < convs.size(); i++) {
    const float *map = mode == CAGC_NOISE_CONST ? g.student.noise[i].data() : nullptr;
    if (mode == CAGC_NOISE_SEEDED) {
      const int64_t count = convs[i].resolution * convs[i].resolution;
      cagc::normal_deviates(cagc::mixed(key + i + 1), count, memory);
      map = memory, memory += count;
    }
    call.noise.push_back({map, 0});
  }
}

struct Drawing {
  cagc_noise noise;
  uint32_t seed;
  cagc_pixels pixels;
};

cagc_status check_drawing(const cagc_generator &g, const Drawing &d, const void *workspace, size_t bytes) {
  if (d.noise < CAGC_NOISE_NONE || d.noise > CAGC_NOISE_SEEDED)
    return fail(CAGC_ARGUMENT, "noise: got %d, expected 0, 1 or 2", static_cast<int>(d.noise));
  if (d.noise == CAGC_NOISE_CONST && g.student.noise.empty())
    return fail(CAGC_UNSUPPORTED, "noise: got CAGC_NOISE_CONST, expected another one: the file has no noise maps");
  if (d.pixels < CAGC_FLOAT32 || d.pixels > CAGC_RGBA8)
    return fail(CAGC_ARGUMENT, "pixels: got %d, expected 0 or 1", static_cast<int>(d.pixels));
  const size_t needed = cagc_workspace_bytes(&g);
  if (workspace && bytes < needed)
    return fail(CAGC_ARGUMENT, "workspace_bytes: got %zu, expected %zu", bytes, needed);
  if (reinterpret_cast<uintptr_t>(workspace) % 64)
    return fail(CAGC_ARGUMENT, "workspace: got an address that is %d off, expected a multiple of 64",
                static_cast<int>(reinterpret_cast<uintptr_t>(workspace) % 64));
  return CAGC_OK;
}

void draw(const cagc_generator &g, const float *ws, size_t count, const Drawing &d, void *images, float *memory) {
  cagc::SynthesisCall call;
  call.w_sample = int64_t{g.student.num_ws} * g.student.w_dim, call.w_layer = g.student.w_dim;
  call.workspace = memory;
  const size_t bytes = cagc_image_bytes(&g, d.pixels);
  for (size_t n = 0; n < count; n++) {
    uint8_t *to = static_cast<uint8_t *>(images) + n * bytes;
    if (n == 0 || d.noise == CAGC_NOISE_SEEDED)
      noise_of(g, d.noise, cagc::mixed(d.seed) + (uint64_t{n} << 32), memory + g.noise_at(), call);
    call.ws = ws + n * call.w_sample;
    call.image = d.pixels == CAGC_FLOAT32 ? reinterpret_cast<float *>(to) : memory + g.image_at();
    g.synthesis->run(call);
    if (d.pixels == CAGC_RGBA8) to_rgba(call.image, g.pixels(), to);
  }
}

cagc_status present(const void *pointer, const char *name) {
  return pointer ? CAGC_OK : fail(CAGC_ARGUMENT, "%s: got NULL, expected a buffer", name);
}

const cagc::Student::Direction *direction(const cagc_generator *g, int32_t index) {
  const bool known = g && index >= 0 && static_cast<size_t>(index) < g->student.directions.size();
  return known ? &g->student.directions[index] : nullptr;
}

}  // namespace

extern "C" {

const char *cagc_version(void) { return CAGC_VERSION; }
int32_t cagc_api_version(void) { return CAGC_API_VERSION; }
const char *cagc_last_error(void) { return last.message; }
cagc_status cagc_last_status(void) { return last.status; }

cagc_generator *cagc_open(const char *path, int32_t threads) {
  std::unique_ptr<cagc_generator> opened;
  guarded([&] { return open_path(path, threads, opened); });
  return opened.release();
}

cagc_generator *cagc_open_memory(const void *data, size_t bytes, int32_t threads) {
  std::unique_ptr<cagc_generator> opened;
  guarded([&] { return open_memory(data, bytes, threads, opened); });
  return opened.release();
}

void cagc_close(cagc_generator *g) { delete g; }

int32_t cagc_z_dim(const cagc_generator *g) { return g->student.z_dim; }
int32_t cagc_w_dim(const cagc_generator *g) { return g->student.w_dim; }
int32_t cagc_num_ws(const cagc_generator *g) { return g->student.num_ws; }
int32_t cagc_resolution(const cagc_generator *g) { return static_cast<int32_t>(g->resolution()); }
size_t cagc_image_bytes(const cagc_generator *g, cagc_pixels pixels) {
  return static_cast<size_t>(g->pixels()) * (pixels == CAGC_RGBA8 ? 4 : 3 * sizeof(float));
}
int32_t cagc_has_mapping(const cagc_generator *g) { return g->student.mapping; }
int32_t cagc_has_noise(const cagc_generator *g) { return !g->student.noise.empty(); }
const float *cagc_w_avg(const cagc_generator *g) { return g->student.w_avg.data(); }
size_t cagc_weight_bytes(const cagc_generator *g) { return g->student.network->bytes(); }
const char *cagc_plan(const cagc_generator *g) { return g->plan.c_str(); }
int32_t cagc_threads(const cagc_generator *g) { return g->threads; }
size_t cagc_workspace_bytes(const cagc_generator *g) {
  return static_cast<size_t>(g->workspace_floats()) * sizeof(float);
}

cagc_status cagc_set_threads(cagc_generator *g, int32_t threads) {
  if (const cagc_status status = present(g, "generator")) return status;
  if (const cagc_status status = check_threads(threads)) return status;
  return guarded([&] { return use_threads(*g, threads), CAGC_OK; });
}

cagc_status cagc_random(uint32_t seed, size_t count, float *values) {
  if (count == 0) return CAGC_OK;
  if (const cagc_status status = present(values, "values")) return status;
  cagc::normal_deviates(cagc::mixed(seed), count, values);
  return CAGC_OK;
}

cagc_status cagc_map(cagc_generator *g, const float *z, size_t count, float psi, int32_t cutoff, float *ws) {
  if (const cagc_status status = present(g, "generator")) return status;
  if (!g->student.mapping)
    return fail(CAGC_UNSUPPORTED, "mapping: got a file without the mapping network, expected one with it");
  if (count == 0) return CAGC_OK;
  if (const cagc_status status = present(z, "z")) return status;
  if (const cagc_status status = present(ws, "ws")) return status;
  const int64_t f = g->student.w_dim, layers = g->student.num_ws, truncated = cutoff < 0 ? layers : cutoff;
  const float *average = g->student.w_avg.data();
  return guarded([&] {
    float *w = g->map_memory.data() + g->synthesis->map_workspace();
    for (size_t n = 0; n < count; n++) {
      g->synthesis->map(z + n * f, w, g->map_memory.data());
      for (int64_t l = 0; l < layers; l++, ws += f)
        for (int64_t i = 0; i < f; i++)
          ws[i] = l < truncated && psi != 1.f ? average[i] + psi * (w[i] - average[i]) : w[i];
    }
    return CAGC_OK;
  });
}

cagc_status cagc_synthesize(cagc_generator *g, const float *ws, size_t count, cagc_noise noise, uint32_t seed,
                            cagc_pixels pixels, void *images, void *workspace, size_t workspace_bytes) {
  if (const cagc_status status = present(g, "generator")) return status;
  const Drawing drawing{noise, seed, pixels};
  if (const cagc_status status = check_drawing(*g, drawing, workspace, workspace_bytes)) return status;
  if (count == 0) return CAGC_OK;
  if (const cagc_status status = present(ws, "ws")) return status;
  if (const cagc_status status = present(images, "images")) return status;
  return guarded([&] {
    if (!workspace && !g->has_workspace) {
      g->workspace = AlignedFloats(g->workspace_floats(), false);
      cagc::prefer_huge_pages(g->workspace.data(), cagc_workspace_bytes(g));
      g->has_workspace = true;
    }
    draw(*g, ws, count, drawing, images, workspace ? static_cast<float *>(workspace) : g->workspace.data());
    return CAGC_OK;
  });
}

int32_t cagc_direction_count(const cagc_generator *g) { return static_cast<int32_t>(g->student.directions.size()); }
const char *cagc_direction_name(const cagc_generator *g, int32_t index) {
  const auto *found = direction(g, index);
  return found ? found->name.c_str() : nullptr;
}
float cagc_direction_scale(const cagc_generator *g, int32_t index) {
  const auto *found = direction(g, index);
  return found ? found->scale : 0.f;
}
const float *cagc_direction(const cagc_generator *g, int32_t index) {
  const auto *found = direction(g, index);
  return found ? found->vector.data() : nullptr;
}

cagc_status cagc_edit(const cagc_generator *g, int32_t index, float strength, int32_t first, int32_t last_layer,
                      float *ws, size_t count) {
  if (const cagc_status status = present(g, "generator")) return status;
  const auto *found = direction(g, index);
  if (!found)
    return fail(CAGC_ARGUMENT, "index: got %d, expected a direction of the file, which has %d", index,
                cagc_direction_count(g));
  const int32_t layers = g->student.num_ws, end = last_layer < 0 ? layers : last_layer;
  if (first < 0 || end > layers || first > end)
    return fail(CAGC_ARGUMENT, "layers: got %d to %d, expected a range within 0 to %d", first, end, layers);
  if (count == 0) return CAGC_OK;
  if (const cagc_status status = present(ws, "ws")) return status;
  const int64_t f = g->student.w_dim;
  for (size_t n = 0; n < count; n++)
    for (int64_t l = first; l < end; l++)
      for (int64_t i = 0; i < f; i++)
        ws[(n * layers + l) * f + i] += strength * found->scale * found->vector[i];
  return CAGC_OK;
}

const char *cagc_licence(const cagc_generator *g) {
  return g->student.licence.empty() ? nullptr : g->student.licence.c_str();
}
const void *cagc_thumbnails(const cagc_generator *g, size_t *bytes) {
  if (bytes) *bytes = g->student.thumbnails.size();
  return g->student.thumbnails.empty() ? nullptr : g->student.thumbnails.data();
}

}  // extern "C"
