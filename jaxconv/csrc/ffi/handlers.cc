// The library's front doors: FFI handlers for XLA, and plain C functions for Python and tests.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "ffi/request.h"
#include "runtime/team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

#define JAXCONV_EXPORT extern "C" __attribute__((visibility("default")))

namespace jaxconv {
namespace {

// How many of XLA's threads the call of one device may use. XLA has as many as devices where those
// are more than the cores, and a program on several devices runs on each at once: one thread more
// takes the core of another device's caller, and is waited for. So cores are shared out among the
// devices that made a call in the last moments. 3x3 32x56x56x32 with both gradients over two
// devices of two cores went from 4.2 to 3.3 ms where the batch was cut, and from 6.7 to 5.1 where
// the height was.
int64_t share_of_threads(int64_t threads, int32_t device) {
  constexpr int64_t kDevices = 64;
  constexpr auto kMoments = std::chrono::milliseconds(50);
  using Clock = std::chrono::steady_clock;
  static const int64_t cores = larger(1, std::thread::hardware_concurrency());
  static std::atomic<Clock::rep> latest[kDevices];
  const Clock::rep now = Clock::now().time_since_epoch().count();
  const Clock::rep recent = now - Clock::duration(kMoments).count();
  latest[device % kDevices].store(now, std::memory_order_relaxed);
  int64_t devices = 0;
  for (const auto& at : latest) devices += at.load(std::memory_order_relaxed) > recent;
  return larger(1, smaller(threads, cores) / devices);
}

// XLA's own intra-op threads, and the one that makes the call.
class PoolTeam : public Team {
 public:
  PoolTeam(ffi::ThreadPool pool, int32_t device)
      : Team(share_of_threads(pool.num_threads(), device), true), pool_(pool) {}

 protected:
  void start(void (*task)(void*), void* data) override {
    pool_.Schedule([task, data] { task(data); });
  }

 private:
  ffi::ThreadPool pool_;
};

// Threads of its own, as many as a test asks for.
class ThreadTeam : public Team {
 public:
  explicit ThreadTeam(int64_t members) : Team(members, false) {}
  ~ThreadTeam() override {
    for (std::thread& thread : threads_) thread.join();
  }

 protected:
  void start(void (*task)(void*), void* data) override { threads_.emplace_back(task, data); }

 private:
  std::vector<std::thread> threads_;
};

std::atomic<int64_t> injected_threads{0};

std::string run(const Request& request, const void* source, const void* operand, void* result,
                Team& team) {
  std::string problem = check(request);
  return problem.empty() ? compute(request, source, operand, result, team) : problem;
}

std::vector<int64_t> vector_of(ffi::Span<const int64_t> span) {
  return std::vector<int64_t>(span.begin(), span.end());
}

bool element_of(ffi::DataType type, Element* element) {
  switch (type) {
    case ffi::F32: *element = Element::kFloat32; return true;
    case ffi::F64: *element = Element::kFloat64; return true;
    case ffi::BF16: *element = Element::kBFloat16; return true;
    case ffi::F16: *element = Element::kFloat16; return true;
    default: return false;
  }
}

template <Operator op>
ffi::Error handle(ffi::ThreadPool pool, int32_t device, ffi::AnyBuffer a, ffi::AnyBuffer b,
                  ffi::Result<ffi::AnyBuffer> result, ffi::Span<const int64_t> strides,
                  ffi::Span<const int64_t> padding, ffi::Span<const int64_t> dilation,
                  int64_t groups) {
  Request r{};
  r.op = op;
  if (!element_of(result->element_type(), &r.element) ||
      a.element_type() != result->element_type() || b.element_type() != result->element_type()) {
    return ffi::Error::InvalidArgument(
        "jaxconv: operands and result must have one element type of float32, float64, bfloat16 "
        "and float16");
  }
  const auto shape_a = vector_of(a.dimensions()), shape_b = vector_of(b.dimensions());
  const auto shape_result = vector_of(result->dimensions());
  r.input = op == Operator::kInputGrad ? shape_result : shape_a;
  r.kernel = op == Operator::kFilterGrad ? shape_result : shape_b;
  r.output = op == Operator::kConv         ? shape_result
             : op == Operator::kInputGrad ? shape_a
                                          : shape_b;
  r.strides = vector_of(strides);
  r.padding = vector_of(padding);
  r.dilation = vector_of(dilation);
  r.groups = groups;

  std::string problem;
  const int64_t threads = injected_threads.load(std::memory_order_relaxed);
  if (threads > 0) {
    ThreadTeam team(threads);
    problem = run(r, a.untyped_data(), b.untyped_data(), result->untyped_data(), team);
  } else {
    PoolTeam team(pool, device);
    problem = run(r, a.untyped_data(), b.untyped_data(), result->untyped_data(), team);
  }
  return problem.empty() ? ffi::Error::Success()
                         : ffi::Error::InvalidArgument("jaxconv: " + problem);
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Ctx<ffi::DeviceOrdinal>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>()
      .Attr<ffi::Span<const int64_t>>("strides")
      .Attr<ffi::Span<const int64_t>>("padding")
      .Attr<ffi::Span<const int64_t>>("dilation")
      .Attr<int64_t>("groups");
}

// `sizes` of a convolution of `rank` spatial axes, as jaxconv_refusal and jaxconv_run take them:
// batch, in-features, out-features, groups, then rank of each of input, output, kernel extents,
// strides and dilation, then a low and a high padding for each axis.
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

int tell(const std::string& problem, char* words, int64_t capacity) {
  std::snprintf(words, static_cast<size_t>(capacity), "%s", problem.c_str());
  return problem.empty() ? 0 : 1;
}

}  // namespace
}  // namespace jaxconv

#define JAXCONV_HANDLER(name, op)                                                    \
  JAXCONV_EXPORT XLA_FFI_Error* name(XLA_FFI_CallFrame* frame) {                     \
    static auto handler = jaxconv::binding().To(jaxconv::handle<jaxconv::Operator::op>); \
    return handler->Call(frame);                                                     \
  }

JAXCONV_HANDLER(jaxconv_conv, kConv)
JAXCONV_HANDLER(jaxconv_input_grad, kInputGrad)
JAXCONV_HANDLER(jaxconv_filter_grad, kFilterGrad)

// 0, or 1 and the reason in `words`, where the engine cannot compute a convolution of these sizes.
JAXCONV_EXPORT int jaxconv_refusal(int64_t op, int64_t element, int64_t rank, const int64_t* sizes,
                                   char* words, int64_t capacity) {
  return jaxconv::tell(jaxconv::check(jaxconv::request_of(op, element, rank, sizes)), words,
                       capacity);
}

// One operator on bare memory, without XLA: for sanitizers and fuzzing.
JAXCONV_EXPORT int jaxconv_run(int64_t op, int64_t element, int64_t rank, const int64_t* sizes,
                               const void* source, const void* operand, void* result,
                               int64_t threads, char* words, int64_t capacity) {
  jaxconv::ThreadTeam team(threads);
  const auto request = jaxconv::request_of(op, element, rank, sizes);
  return jaxconv::tell(jaxconv::run(request, source, operand, result, team), words, capacity);
}

// Calls from now on use this many threads of their own; 0 goes back to XLA's.
JAXCONV_EXPORT void jaxconv_inject_threads(int64_t threads) {
  jaxconv::injected_threads.store(threads, std::memory_order_relaxed);
}

JAXCONV_EXPORT const char* jaxconv_instruction_set() { return jaxconv::instruction_set(); }

JAXCONV_EXPORT int jaxconv_use_instruction_set(const char* name) {
  return jaxconv::use_instruction_set(name) ? 1 : 0;
}
