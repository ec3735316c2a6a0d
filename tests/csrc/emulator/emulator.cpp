// The scheduler of the emulator: one launch at a time, one fiber per thread of a block.
#include "cuda_runtime.h"
#include <cstdio>
#include <cstring>
#include <link.h>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <ucontext.h>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cagc::emulator {
namespace {

constexpr size_t kStack = 64 * 1024;  // bytes per thread: a kernel with more in local memory would be a bad kernel
constexpr int kShared = 48 * 1024;    // bytes a launch may ask for; more needs cudaFuncSetAttribute
constexpr int kSharedOptin = 163 * 1024;  // the limit of sm_80, the smaller of the two that the module is built for
constexpr size_t kCanary = 256;           // bytes behind dynamic shared memory that no kernel may touch
constexpr unsigned char kPoison = 0xff, kUntouched = 0xa5;

enum class State { ready, waiting, done };

// Where a fiber or the scheduler stands. swapcontext() only enters a new fiber: it asks the system for the signal mask
// at every switch, which takes longer than the rest of an emulated kernel.
using Place = void *[5];

struct Fiber {
  Place place;
  bool entered = false;
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  uint3 index;
  State state;
  int line;  // of the barrier it waits at
};

std::mutex mutex;
std::mt19937_64 random_bits;
bool shuffled = false;
int multiprocessors = 2;
std::set<int> reached;
int skipped = 0;
std::map<const void *, int> allowed;
cudaError_t last_error = cudaSuccess;
char message[256];

std::vector<std::unique_ptr<Fiber>> fibers;
Fiber *current;
Place scheduler;
ucontext_t outside;
const std::function<void()> *kernel_body;
std::vector<unsigned char> dynamic_memory;
unsigned char *dynamic_start;
thread_local char anchor;  // marks the module whose thread-local memory is the kernels' shared memory

template <class... A> void fail(cudaError_t error, const char *format, A... arguments) {
  if (last_error != cudaSuccess) return;  // the first one is the cause
  last_error = error;
  std::snprintf(message, sizeof message, format, arguments...);
}

// A function must not hold both halves of a jump.
[[gnu::noinline, noreturn]] void jump(Place &to) { __builtin_longjmp(to, 1); }

[[gnu::noinline]] void switch_places(Place &from, Place &to) {
  if (!__builtin_setjmp(from)) jump(to);
}

void enter() {
  for (;;) {
    (*kernel_body)();
    current->state = State::done;
    switch_places(current->place, scheduler);
  }
}

[[gnu::noinline]] void enter_for_the_first_time(Fiber &fiber) {
  fiber.entered = true;
  if (!__builtin_setjmp(scheduler)) swapcontext(&outside, &fiber.context);
}

void resume(Fiber &fiber) {
  current = &fiber;
  threadIdx = fiber.index;
  if (fiber.entered) switch_places(scheduler, fiber.place);
  else enter_for_the_first_time(fiber);
  current = nullptr;
}

// Ends the running thread: the access that was reported must not take place.
void stop_thread() {
  if (!current) std::fprintf(stderr, "%s, in host code\n", message), std::abort();
  current->state = State::done;
  switch_places(current->place, scheduler);
}

std::vector<size_t> order(size_t n) {
  std::vector<size_t> indices(n);
  std::iota(indices.begin(), indices.end(), size_t(0));
  if (shuffled) std::shuffle(indices.begin(), indices.end(), random_bits);
  return indices;
}

int poison_module(dl_phdr_info *info, size_t, void *) {
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto &header = info->dlpi_phdr[i];
    auto *start = static_cast<char *>(info->dlpi_tls_data);
    if (header.p_type != PT_TLS || !start || &anchor < start || &anchor >= start + header.p_memsz) continue;
    if (header.p_filesz) fail(cudaErrorLaunchFailure, "emulator: a thread_local variable has an initial value");
    else std::memset(start, kPoison, header.p_memsz);
    return 1;
  }
  return 0;
}

void poison_shared(size_t bytes) {
  anchor = 0;  // allocates the thread's block on first use
  if (!dl_iterate_phdr(poison_module, nullptr)) fail(cudaErrorLaunchFailure, "emulator: static shared memory is lost");
  std::memset(dynamic_start, kPoison, bytes);
  std::memset(dynamic_start + bytes, kUntouched, kCanary);
}

void check_canary(size_t bytes) {
  for (size_t i = 0; i < kCanary; i++)
    if (dynamic_start[bytes + i] != kUntouched)
      return fail(cudaErrorLaunchFailure, "emulator: byte %zu of %zu bytes of dynamic shared memory written", bytes + i,
                  bytes);
}

void prepare_fibers(dim3 block) {
  const size_t threads = size_t(block.x) * block.y * block.z;
  while (fibers.size() < threads) {
    auto fiber = std::make_unique<Fiber>();
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = kStack;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, enter, 0);
    fibers.push_back(std::move(fiber));
  }
  for (size_t t = 0; t < threads; t++) {
    const unsigned i = unsigned(t);
    fibers[t]->index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    fibers[t]->state = State::ready;
  }
}

// False if the block cannot go on.
bool pass_barrier(size_t threads) {
  size_t waiting = 0;
  for (size_t t = 0; t < threads; t++) waiting += fibers[t]->state == State::waiting;
  if (waiting == 0) return false;
  if (waiting < threads) {
    fail(cudaErrorLaunchFailure, "emulator: %zu of %zu threads reach a barrier, the others ended", waiting, threads);
    return false;
  }
  for (size_t t = 0; t < threads; t++) {
    if (fibers[t]->line != fibers[0]->line) {
      fail(cudaErrorLaunchFailure, "emulator: threads of one block wait at the barriers of lines %d and %d",
           fibers[0]->line, fibers[t]->line);
      return false;
    }
    fibers[t]->state = State::ready;
  }
  return true;
}

void run_block(dim3 block, size_t shared) {
  const size_t threads = size_t(block.x) * block.y * block.z;
  poison_shared(shared);
  prepare_fibers(block);
  do
    for (size_t t : order(threads)) resume(*fibers[t]);
  while (pass_barrier(threads));
  check_canary(shared);
}

bool fits(const void *kernel, dim3 grid, dim3 block, size_t shared) {
  const size_t threads = size_t(block.x) * block.y * block.z;
  const auto limit = allowed.find(kernel);
  const bool small = shared <= size_t(limit == allowed.end() ? kShared : limit->second);
  return threads >= 1 && threads <= 1024 && block.z <= 64 && grid.x >= 1 && grid.x <= 0x7fffffff && grid.y >= 1 &&
         grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535 && small;
}

}  // namespace

void set_seed(uint64_t seed) {
  shuffled = seed != 0;
  random_bits.seed(seed);
}

void set_multiprocessors(int count) { multiprocessors = count; }

void *shared_memory() { return dynamic_start; }

cudaError_t allow_shared(const void *kernel, cudaFuncAttribute, int bytes) {
  if (bytes > kSharedOptin) return cudaErrorInvalidValue;
  allowed[kernel] = std::max(bytes, kShared);
  return cudaSuccess;
}

std::set<int> barriers_reached() { return reached; }

void skip_barrier(int line) { skipped = line; }

void barrier(int line) {
  reached.insert(line);
  if (line == skipped) return;
  current->line = line;
  current->state = State::waiting;
  switch_places(current->place, scheduler);
}

void run(const void *kernel, dim3 grid, dim3 block, size_t shared, const std::function<void()> &body) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!fits(kernel, grid, block, shared)) {
    return fail(cudaErrorInvalidConfiguration, "invalid configuration: grid %ux%ux%u, block %ux%ux%u, %zu B shared",
                grid.x, grid.y, grid.z, block.x, block.y, block.z, shared);
  }
  kernel_body = &body;
  gridDim = grid;
  blockDim = block;
  dynamic_memory.resize(shared + kCanary + 128);
  const size_t start = reinterpret_cast<uintptr_t>(dynamic_memory.data());
  dynamic_start = dynamic_memory.data() + (128 - start % 128);
  for (size_t b : order(size_t(grid.x) * grid.y * grid.z)) {
    blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
    run_block(block, shared);
    if (last_error != cudaSuccess) return fibers.clear();  // some stand in the middle of the kernel
  }
}

}  // namespace cagc::emulator

using namespace cagc::emulator;

cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount       ? multiprocessors
           : attribute == cudaDevAttrMaxSharedMemoryPerBlock ? kShared
                                                             : kSharedOptin;
  return cudaSuccess;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

const char *cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : message; }

// The kernels are compiled with -fsanitize=alignment,bounds; these are the reports, so that no sanitizer is linked.
extern "C" {
struct Location { const char *file; uint32_t line, column; };

void __ubsan_handle_type_mismatch_v1(Location *at, void *pointer) {
  fail(cudaErrorMisalignedAddress, "misaligned address %p, %s:%u", pointer, at->file, at->line);
  stop_thread();
}

void __ubsan_handle_out_of_bounds(Location *at, void *index) {
  const auto i = static_cast<long>(reinterpret_cast<intptr_t>(index));
  fail(cudaErrorLaunchFailure, "index %ld leaves its array, %s:%u", i, at->file, at->line);
  stop_thread();
}
}
