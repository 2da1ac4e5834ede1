#include "ffi/request.h"

#include <cstring>

#include "ffi/instruction_set.h"
#include "runtime/pages.h"

namespace jaxconv {
namespace {

// With larger depthwise multipliers, a channel has whole vectors of features: a grouped
// convolution.
constexpr int64_t kMaxDepthwiseMultiplier = 8;

}  // namespace

std::string to_string(const Shape& shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + ")";
}

int64_t element_size(Element element) {
  switch (element) {
    case Element::kFloat32: return 4;
    case Element::kFloat64: return 8;
    default: return 2;
  }
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
    // The stride of a single output and the dilation of a single tap have no effect.
    if (axis.out == 1) axis.stride = 1;
    if (axis.kernel == 1) axis.dilation = 1;
  }
  return g;
}

bool is_depthwise(const Geometry& g) {
  return g.groups == g.channels && g.features <= kMaxDepthwiseMultiplier * g.channels;
}

namespace {

// Larger convolutions would need more workspace than a call may allocate; none in use comes close.
constexpr int64_t kMaxTaps = 1 << 14;
constexpr int64_t kMaxFeatures = 1 << 16;
constexpr int64_t kMaxProducts = 30000;  // summed per result: packed weights grow with them

// Below this, attributes never overflow 64-bit index arithmetic.
constexpr int64_t kMaxAttribute = int64_t{1} << 31;

constexpr const char* kTooLarge = "needs more workspace than a call of the CPU engine may allocate";

int64_t output_size(int64_t in, int64_t kernel, int64_t stride, int64_t low, int64_t high,
                    int64_t dilation) {
  if (in == 0 || kernel == 0) return 0;
  const int64_t room = in + low + high - (dilation * (kernel - 1) + 1);
  return room < 0 ? 0 : room / stride + 1;
}

bool empty(const Shape& shape) {
  for (int64_t size : shape) {
    if (size == 0) return true;
  }
  return false;
}

// The checks: each returns an empty string or the reason why the request is not supported, and
// assumes that the ones before it have passed.

std::string check_ranks(const Request& r) {
  const size_t rank = r.strides.size();
  if (rank < 1 || rank > 3) {
    return "strides must have one to three entries, but got " + to_string(r.strides);
  }
  if (r.dilation.size() != rank || r.padding.size() != 2 * rank) {
    return "dilation must have one entry per spatial axis and padding two, but got " +
           to_string(r.dilation) + " and " + to_string(r.padding) + " with strides " +
           to_string(r.strides);
  }
  for (const Shape* shape : {&r.input, &r.kernel, &r.output}) {
    if (shape->size() != rank + 2) {
      return "with strides " + to_string(r.strides) + " every array must have " +
             std::to_string(rank + 2) + " axes, but got shape " + to_string(*shape);
    }
    for (int64_t size : *shape) {
      if (size < 0) return "axes must not have negative sizes, but got shape " + to_string(*shape);
    }
  }
  return "";
}

std::string check_attributes(const Request& r) {
  for (size_t i = 0; i < r.strides.size(); ++i) {
    if (r.strides[i] < 1 || r.dilation[i] < 1) {
      return "strides and dilation must be at least 1, but got " + to_string(r.strides) + " and " +
             to_string(r.dilation);
    }
    for (int64_t value : {r.strides[i], r.dilation[i], r.padding[2 * i], r.padding[2 * i + 1]}) {
      if (value >= kMaxAttribute || value <= -kMaxAttribute) {
        return "strides, dilation and padding must be below 2**31, but got " +
               std::to_string(value);
      }
    }
  }
  return "";
}

std::string check_channels(const Request& r) {
  const size_t rank = r.strides.size();
  const int64_t channels = r.input.back(), features = r.output.back();
  if (r.groups < 1 || channels % r.groups != 0 || features % r.groups != 0) {
    return "in_features and out_features must be multiples of groups, but got " +
           std::to_string(channels) + " and " + std::to_string(features) + " with groups=" +
           std::to_string(r.groups);
  }
  if (r.kernel[rank] != channels / r.groups || r.kernel[rank + 1] != features) {
    return "the kernel's last two axes must be in_features/groups = " +
           std::to_string(channels / r.groups) + " and out_features = " +
           std::to_string(features) + ", but it has shape " + to_string(r.kernel);
  }
  if (r.input.front() != r.output.front()) {
    return "input and output must have the same batch size, but have shapes " +
           to_string(r.input) + " and " + to_string(r.output);
  }
  return "";
}

std::string check_spatial_sizes(const Request& r) {
  int64_t taps = 1;
  for (size_t i = 0; i < r.strides.size(); ++i) {
    if (r.kernel[i] > kMaxTaps || (taps *= r.kernel[i]) > kMaxTaps) {
      return "a kernel of more than " + std::to_string(kMaxTaps) + " taps " + kTooLarge;
    }
    const int64_t size = output_size(r.input[i + 1], r.kernel[i], r.strides[i], r.padding[2 * i],
                                     r.padding[2 * i + 1], r.dilation[i]);
    if (r.output[i + 1] != size) {
      return "spatial axis " + std::to_string(i) + " of the output must have size " +
             std::to_string(size) + ", but has size " + std::to_string(r.output[i + 1]);
    }
  }
  return "";
}

std::string check_limits(const Request& r) {
  const int64_t channels = r.input.back(), features = r.output.back();
  if (channels > kMaxFeatures || features > kMaxFeatures) {
    return "a convolution with more than " + std::to_string(kMaxFeatures) + " features " +
           kTooLarge;
  }
  int64_t products = r.op == Operator::kInputGrad ? features / r.groups : channels / r.groups;
  for (const Axis& axis : geometry(r).axis) products *= most_taps(axis, r.op);
  if (r.op != Operator::kFilterGrad && products > kMaxProducts) {
    return "a sum of more than " + std::to_string(kMaxProducts) + " products per result " +
           kTooLarge + ", but this one has " + std::to_string(products);
  }
  return "";
}

// A convolution of the same output in which no tap reaches a source.
Geometry without_products(Geometry g) {
  for (Axis& axis : g.axis) axis = {1, axis.out, 1, 1, axis.out, 1};
  g.channels = g.groups = 1;
  return g;
}

}  // namespace

std::string unsupported_reason(const Request& r) {
  for (const auto check :
       {check_ranks, check_attributes, check_channels, check_spatial_sizes, check_limits}) {
    std::string reason = check(r);
    if (!reason.empty()) return reason;
  }
  return "";
}

std::string compute(const Request& r, Call call) {
  const Shape& shape = r.op == Operator::kConv        ? r.output
                       : r.op == Operator::kInputGrad ? r.input
                                                      : r.kernel;
  int64_t bytes = element_size(r.element);
  for (int64_t size : shape) bytes *= size;
  call.op = r.op;
  call.geometry = geometry(r);
  std::vector<char> zeros;
  if (empty(r.input) || empty(r.kernel) || empty(r.output)) {
    // There are no products: the result, unless it is empty too, is that of zero.
    if (bytes > 0) std::memset(call.result, 0, static_cast<size_t>(bytes));
    if (bytes == 0 || call.epilogue == nullptr) return "";
    zeros.resize(static_cast<size_t>(call.geometry.features * element_size(r.element)));
    call.geometry = without_products(call.geometry);
    call.source = call.operand = zeros.data();
    call.panels = nullptr;
  }
  prefer_large_pages(call.result, bytes);
  const InstructionSet& isa = instruction_set();
  const Compute* by_element = is_depthwise(call.geometry) ? isa.depthwise : isa.dense;
  const char* problem = by_element[static_cast<int>(r.element)](call);
  return problem == nullptr ? "" : problem;
}

std::string run(const Request& request, const void* source, const void* operand, void* result,
                Team& team) {
  const std::string reason = unsupported_reason(request);
  if (!reason.empty()) return reason;
  Call call{};
  call.source = source;
  call.operand = operand;
  call.result = result;
  call.team = &team;
  return compute(request, call);
}

}  // namespace jaxconv
