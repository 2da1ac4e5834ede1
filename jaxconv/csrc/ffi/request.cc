#include "ffi/request.h"

#include <atomic>
#include <cstring>

#include "engine.h"
#include "runtime/pages.h"

namespace jaxconv {
namespace {

// Sizes past these would need more workspace than a call may take; nothing in use comes near.
constexpr int64_t kMostTaps = 1 << 14;
constexpr int64_t kMostFeatures = 1 << 16;
constexpr int64_t kMostProducts = 30000;  // summed to one result; packed weights grow with them

// Depthwise multipliers past this leave whole vectors to one channel: a grouped convolution.
constexpr int64_t kLargestMultiplier = 8;

// Attributes below this never overflow 64-bit index arithmetic.
constexpr int64_t kMostAttribute = int64_t{1} << 31;

std::string shape_string(const std::vector<int64_t>& shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + ")";
}

int64_t output_extent(int64_t in, int64_t kernel, int64_t stride, int64_t low, int64_t high,
                      int64_t dilation) {
  if (in == 0 || kernel == 0) return 0;
  const int64_t room = in + low + high - (dilation * (kernel - 1) + 1);
  return room < 0 ? 0 : room / stride + 1;
}

bool empty(const std::vector<int64_t>& shape) {
  for (int64_t size : shape) {
    if (size == 0) return true;
  }
  return false;
}

Geometry geometry(const Request& r) {
  const size_t rank = r.strides.size();
  Geometry g{};
  g.batch = r.input.front();
  g.channels = r.input.back();
  g.features = r.output.back();
  g.groups = r.groups;
  for (size_t a = 0; a < 3 - rank; ++a) g.axis[a] = {1, 1, 1, 1, 0, 1};
  for (size_t i = 0; i < rank; ++i) {
    Axis& axis = g.axis[3 - rank + i];
    axis = {r.input[i + 1], r.output[i + 1],  r.kernel[i],
            r.strides[i],   r.padding[2 * i], r.dilation[i]};
    // The stride of a single output and the dilation of a single tap mean nothing.
    if (axis.out == 1) axis.stride = 1;
    if (axis.kernel == 1) axis.dilation = 1;
  }
  return g;
}

struct InstructionSet {
  const char* name;
  Compute depthwise[4], dense[4];  // by Element
};

#define JAXCONV_ENGINE(isa)                                                  \
  {#isa,                                                                     \
   {isa::depthwise_float32, isa::depthwise_float64, isa::depthwise_bfloat16, \
    isa::depthwise_float16},                                                 \
   {isa::dense_float32, isa::dense_float64, isa::dense_bfloat16, isa::dense_float16}}

constexpr InstructionSet kBaseline = JAXCONV_ENGINE(baseline);
#if defined(JAXCONV_X86)
constexpr InstructionSet kAvx2 = JAXCONV_ENGINE(avx2);
constexpr InstructionSet kAvx512 = JAXCONV_ENGINE(avx512);
#endif

// Null where this machine lacks it.
const InstructionSet* find(const std::string& name) {
#if defined(JAXCONV_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (name == "avx512" && avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return &kAvx512;
  }
  if (name == "avx2" && avx2) return &kAvx2;
#endif
  return name == "baseline" ? &kBaseline : nullptr;
}

const InstructionSet* best() {
  for (const char* name : {"avx512", "avx2"}) {
    if (const InstructionSet* set = find(name)) return set;
  }
  return &kBaseline;
}

std::atomic<const InstructionSet*>& in_use() {
  static std::atomic<const InstructionSet*> set{best()};
  return set;
}

int64_t element_size(Element element) {
  switch (element) {
    case Element::kFloat32: return 4;
    case Element::kFloat64: return 8;
    default: return 2;
  }
}

}  // namespace

std::string check(const Request& r) {
  const size_t rank = r.strides.size();
  if (rank < 1 || rank > 3) {
    return "strides must have one to three entries, but got " + shape_string(r.strides);
  }
  if (r.dilation.size() != rank || r.padding.size() != 2 * rank) {
    return "dilation and padding must have one and two entries an axis, but got " +
           shape_string(r.dilation) + " and " + shape_string(r.padding) + " with strides " +
           shape_string(r.strides);
  }
  for (const auto* shape : {&r.input, &r.kernel, &r.output}) {
    if (shape->size() != rank + 2) {
      return "every array must have " + std::to_string(rank + 2) + " axes, but one has shape " +
             shape_string(*shape);
    }
    for (int64_t size : *shape) {
      if (size < 0) return "no axis may have a negative size, but got " + shape_string(*shape);
    }
  }
  for (size_t i = 0; i < rank; ++i) {
    if (r.strides[i] < 1 || r.dilation[i] < 1) {
      return "strides and dilation must be at least 1, but got " + shape_string(r.strides) +
             " and " + shape_string(r.dilation);
    }
    for (int64_t value : {r.strides[i], r.dilation[i], r.padding[2 * i], r.padding[2 * i + 1]}) {
      if (value >= kMostAttribute || value <= -kMostAttribute) {
        return "strides, dilation and padding must be below 2**31, but got " +
               std::to_string(value);
      }
    }
  }
  const int64_t channels = r.input.back(), features = r.output.back();
  if (r.groups < 1 || channels % r.groups != 0 || features % r.groups != 0) {
    return "in-features and out-features must be multiples of the groups, but got " +
           std::to_string(channels) + ", " + std::to_string(features) + " and " +
           std::to_string(r.groups);
  }
  if (r.kernel[rank] != channels / r.groups || r.kernel[rank + 1] != features) {
    return "the kernel's last two axes must be in-features/groups = " +
           std::to_string(channels / r.groups) + " and out-features = " +
           std::to_string(features) + ", but it has shape " + shape_string(r.kernel);
  }
  if (r.input.front() != r.output.front()) {
    return "input and output must have one batch size, but have shapes " + shape_string(r.input) +
           " and " + shape_string(r.output);
  }
  int64_t taps = 1;
  for (size_t i = 0; i < rank; ++i) {
    if (r.kernel[i] > kMostTaps || (taps *= r.kernel[i]) > kMostTaps) {
      return "a kernel of more than " + std::to_string(kMostTaps) +
             " taps needs more workspace than a call may take";
    }
    const int64_t extent = output_extent(r.input[i + 1], r.kernel[i], r.strides[i],
                                         r.padding[2 * i], r.padding[2 * i + 1], r.dilation[i]);
    if (r.output[i + 1] != extent) {
      return "spatial axis " + std::to_string(i) + " of the output must have size " +
             std::to_string(extent) + ", but has " + std::to_string(r.output[i + 1]);
    }
  }
  if (channels > kMostFeatures || features > kMostFeatures) {
    return "more than " + std::to_string(kMostFeatures) +
           " features need more workspace than a call may take";
  }
  int64_t products = r.op == Operator::kInputGrad ? features / r.groups : channels / r.groups;
  for (const Axis& axis : geometry(r).axis) products *= most_taps(axis, r.op);
  if (r.op != Operator::kFilterGrad && products > kMostProducts) {
    return "a sum of more than " + std::to_string(kMostProducts) + " products for each " +
           "result needs more workspace than a call may take, but this one has " +
           std::to_string(products);
  }
  return "";
}

std::string compute(const Request& r, const void* source, const void* operand, void* result,
                    Team& team) {
  const bool empty_input = empty(r.input), empty_kernel = empty(r.kernel);
  const bool empty_output = empty(r.output);
  const auto& shape = r.op == Operator::kConv        ? r.output
                      : r.op == Operator::kInputGrad ? r.input
                                                     : r.kernel;
  int64_t bytes = element_size(r.element);
  for (int64_t size : shape) bytes *= size;
  if (empty_input || empty_kernel || empty_output) {
    // No product is formed: what there is of a result is zero.
    if (bytes > 0) std::memset(result, 0, static_cast<size_t>(bytes));
    return "";
  }
  prefer_large_pages(result, bytes);
  const Call call{r.op, geometry(r), source, operand, result, &team};
  const InstructionSet* set = in_use().load(std::memory_order_relaxed);
  const Geometry& g = call.geometry;
  const bool depthwise = g.groups == g.channels && g.features <= kLargestMultiplier * g.channels;
  const char* problem =
      (depthwise ? set->depthwise : set->dense)[static_cast<int>(r.element)](call);
  return problem == nullptr ? "" : problem;
}

const char* instruction_set() { return in_use().load(std::memory_order_relaxed)->name; }

bool use_instruction_set(const std::string& name) {
  const InstructionSet* set = find(name);
  if (set != nullptr) in_use().store(set, std::memory_order_relaxed);
  return set != nullptr;
}

}  // namespace jaxconv
