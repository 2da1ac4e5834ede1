// Plain C functions, for Python's ctypes and for tests.

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "ffi/export.h"
#include "ffi/fused.h"
#include "ffi/instruction_set.h"
#include "ffi/packed_kernel.h"
#include "ffi/request.h"
#include "ffi/thread_team.h"

namespace jaxconv {
namespace {

// `sizes` of a convolution with `rank` spatial axes: batch, in_features, out_features, groups, then
// `rank` values each of input, output and kernel sizes, strides and dilation, then low and high
// padding for each axis.
Request request_of(int64_t op, int64_t element, int64_t rank, const int64_t* sizes) {
  Request r{};
  r.op = static_cast<Operator>(op);
  r.element = static_cast<Element>(element);
  r.groups = sizes[3];
  const int64_t* next = sizes + 4;
  const auto take = [&next](int64_t count) {
    next += count;
    return std::vector<int64_t>(next - count, next);
  };
  const auto wrap = [](int64_t batch, std::vector<int64_t> spatial, int64_t features) {
    spatial.insert(spatial.begin(), batch);
    spatial.push_back(features);
    return spatial;
  };
  r.input = wrap(sizes[0], take(rank), sizes[1]);
  r.output = wrap(sizes[0], take(rank), sizes[2]);
  r.kernel = take(rank);
  r.kernel.push_back(r.groups > 0 ? sizes[1] / r.groups : 0);
  r.kernel.push_back(sizes[2]);
  r.strides = take(rank);
  r.dilation = take(rank);
  r.padding = take(2 * rank);
  return r;
}

Request conv_request_of(int64_t element, int64_t rank, const int64_t* sizes) {
  return request_of(static_cast<int64_t>(Operator::kConv), element, rank, sizes);
}

// 0 if `problem` is empty; otherwise 1, and the problem in `message`.
int report(const std::string& problem, char* message, int64_t capacity) {
  std::snprintf(message, static_cast<size_t>(capacity), "%s", problem.c_str());
  return problem.empty() ? 0 : 1;
}

}  // namespace
}  // namespace jaxconv

// 0 if the engine supports a convolution of these sizes; otherwise 1, and the reason in `message`.
JAXCONV_EXPORT int jaxconv_unsupported_reason(int64_t op, int64_t element, int64_t rank,
                                              const int64_t* sizes, char* message,
                                              int64_t capacity) {
  const auto request = jaxconv::request_of(op, element, rank, sizes);
  return jaxconv::report(jaxconv::unsupported_reason(request), message, capacity);
}

// Computes one operator without XLA, for tests, fuzzing and sanitizers.
JAXCONV_EXPORT int jaxconv_run(int64_t op, int64_t element, int64_t rank, const int64_t* sizes,
                               const void* source, const void* operand, void* result,
                               int64_t threads, char* message, int64_t capacity) {
  jaxconv::ThreadTeam team(threads);
  const auto request = jaxconv::request_of(op, element, rank, sizes);
  return jaxconv::report(jaxconv::run(request, source, operand, result, team), message, capacity);
}

// A convolution with an epilogue. `epilogue` are its scale, bias and residual, each an array of the
// size that the convolution requires, or null. If `packed_bytes` is not zero, `kernel` is a packed
// kernel of that size.
JAXCONV_EXPORT int jaxconv_run_fused(int64_t element, int64_t rank, const int64_t* sizes,
                                     const void* x, const void* kernel, int64_t packed_bytes,
                                     const void* const* epilogue, int64_t activation,
                                     double negative_slope, void* result, int64_t threads,
                                     char* message, int64_t capacity) {
  jaxconv::ThreadTeam team(threads);
  const auto request = jaxconv::conv_request_of(element, rank, sizes);
  const jaxconv::EpilogueRequest fused{{epilogue[0], {sizes[2]}},
                                       {epilogue[1], {sizes[2]}},
                                       {epilogue[2], request.output},
                                       activation,
                                       negative_slope};
  const jaxconv::PackedKernel packed{kernel, packed_bytes};
  return jaxconv::report(jaxconv::run_fused(request, fused, x, kernel,
                                            packed_bytes != 0 ? &packed : nullptr, result, team),
                         message, capacity);
}

// The bytes of a packed kernel, or 0 if the engine reads the kernel in place.
JAXCONV_EXPORT int64_t jaxconv_packed_bytes(int64_t element, int64_t rank, const int64_t* sizes) {
  return jaxconv::packed_bytes(jaxconv::conv_request_of(element, rank, sizes));
}

// Packs a kernel into `bytes` bytes.
JAXCONV_EXPORT int jaxconv_pack(int64_t element, int64_t rank, const int64_t* sizes,
                                const void* kernel, void* packed, int64_t bytes, int64_t threads,
                                char* message, int64_t capacity) {
  jaxconv::ThreadTeam team(threads);
  const auto request = jaxconv::conv_request_of(element, rank, sizes);
  return jaxconv::report(jaxconv::pack(request, kernel, packed, bytes, team), message, capacity);
}

// Later calls use this many threads of the engine's own; 0 returns to XLA's threads.
JAXCONV_EXPORT void jaxconv_inject_threads(int64_t threads) {
  jaxconv::injected_threads().store(threads, std::memory_order_relaxed);
}

JAXCONV_EXPORT const char* jaxconv_instruction_set() { return jaxconv::instruction_set().name; }

// 1 if the instruction set is now in use, 0 if this machine or this build does not support it.
JAXCONV_EXPORT int jaxconv_use_instruction_set(const char* name) {
  return jaxconv::use_instruction_set(name) ? 1 : 0;
}
