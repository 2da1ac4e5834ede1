// XLA FFI handlers of the three operators, of the fused convolution and of packing its kernel, and
// of the causal convolution of packed sequences.

#include <cstdint>
#include <string>
#include <vector>

#include "ffi/causal.h"
#include "ffi/examples.h"
#include "ffi/export.h"
#include "ffi/fused.h"
#include "ffi/packed_kernel.h"
#include "ffi/pool_team.h"
#include "ffi/request.h"
#include "ffi/thread_team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxconv {
namespace {

using Spans = ffi::Span<const int64_t>;

std::vector<int64_t> vector_of(Spans span) {
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

ffi::Error error(const std::string& problem) {
  return problem.empty() ? ffi::Error::Success()
                         : ffi::Error::InvalidArgument("jaxconv: " + problem);
}

ffi::Error wrong_types() {
  return error(
      "operands and result must all have the same element type, one of float32, float64, bfloat16 "
      "and float16");
}

// Calls compute(team) with the threads that the call may use.
template <class Compute>
ffi::Error with_team(ffi::ThreadPool pool, int32_t device, Compute&& compute) {
  const int64_t threads = injected_threads().load(std::memory_order_relaxed);
  if (threads > 0) {
    ThreadTeam team(threads);
    return error(compute(team));
  }
  PoolTeam team(pool, device);
  return error(compute(team));
}

// Removes the axis of examples, which precedes the `axes` axes of a convolution's array. Returns
// whether it is there and has this size.
bool take_examples(size_t axes, int64_t examples, std::vector<int64_t>* shape) {
  if (shape->size() != axes + 1 || shape->front() != examples) return false;
  shape->erase(shape->begin());
  return true;
}

template <Operator op>
ffi::Error handle(ffi::ThreadPool pool, int32_t device, ffi::AnyBuffer a, ffi::AnyBuffer b,
                  ffi::Result<ffi::AnyBuffer> result, Spans strides, Spans padding, Spans dilation,
                  int64_t groups) {
  Request r{};
  r.op = op;
  if (!element_of(result->element_type(), &r.element) ||
      a.element_type() != result->element_type() || b.element_type() != result->element_type()) {
    return wrong_types();
  }
  auto shape_a = vector_of(a.dimensions()), shape_b = vector_of(b.dimensions());
  auto shape_result = vector_of(result->dimensions());
  const size_t axes = strides.size() + 2;
  const bool has_examples = shape_result.size() == axes + 1;
  const int64_t examples = has_examples ? shape_result.front() : 1;
  for (auto* shape : {&shape_a, &shape_b, &shape_result}) {
    if (has_examples && !take_examples(axes, examples, shape)) {
      return error("all arrays must have the same number of examples as the result, " +
                   std::to_string(examples));
    }
  }
  r.input = op == Operator::kInputGrad ? shape_result : shape_a;
  r.kernel = op == Operator::kFilterGrad ? shape_result : shape_b;
  r.output = op == Operator::kConv        ? shape_result
             : op == Operator::kInputGrad ? shape_a
                                          : shape_b;
  r.strides = vector_of(strides);
  r.padding = vector_of(padding);
  r.dilation = vector_of(dilation);
  r.groups = groups;
  return with_team(pool, device, [&](Team& team) {
    return run_examples(r, examples, a.untyped_data(), b.untyped_data(), result->untyped_data(),
                        team);
  });
}

// Assigns the remaining operands to the arrays that the epilogue has, in this order.
ffi::Error take_arrays(ffi::RemainingArgs args, ffi::DataType type, const bool (&has)[3],
                       EpilogueRequest* epilogue) {
  EpilogueArray* const arrays[] = {&epilogue->scale, &epilogue->bias, &epilogue->residual};
  size_t next = 0;
  for (int i = 0; i < 3; ++i) next += has[i];
  if (args.size() != next) {
    return error("the epilogue reads " + std::to_string(next) + " arrays, but " +
                 std::to_string(args.size()) + " were given");
  }
  next = 0;
  for (int i = 0; i < 3; ++i) {
    if (!has[i]) continue;
    const auto array = args.get<ffi::AnyBuffer>(next++);
    if (!array.has_value()) return array.error();
    if (array->element_type() != type) return wrong_types();
    *arrays[i] = {array->untyped_data(), vector_of(array->dimensions())};
  }
  return ffi::Error::Success();
}

ffi::Error handle_fused(ffi::ThreadPool pool, int32_t device, ffi::AnyBuffer x,
                        ffi::AnyBuffer kernel, ffi::RemainingArgs args,
                        ffi::Result<ffi::AnyBuffer> result, Spans strides, Spans padding,
                        Spans dilation, int64_t groups, bool has_scale, bool has_bias,
                        bool has_residual, int64_t activation, double negative_slope,
                        Spans packed_shape) {
  Request r{};
  r.op = Operator::kConv;
  const ffi::DataType type = result->element_type();
  const bool is_packed = packed_shape.size() != 0;
  if (!element_of(type, &r.element) || x.element_type() != type ||
      kernel.element_type() != (is_packed ? ffi::U8 : type)) {
    return wrong_types();
  }
  EpilogueRequest epilogue{};
  epilogue.activation = activation;
  epilogue.negative_slope = negative_slope;
  const ffi::Error mismatch =
      take_arrays(args, type, {has_scale, has_bias, has_residual}, &epilogue);
  if (mismatch.failure()) return mismatch;
  r.input = vector_of(x.dimensions());
  r.kernel = vector_of(is_packed ? packed_shape : kernel.dimensions());
  r.output = vector_of(result->dimensions());
  r.strides = vector_of(strides);
  r.padding = vector_of(padding);
  r.dilation = vector_of(dilation);
  r.groups = groups;
  const PackedKernel packed{kernel.untyped_data(), static_cast<int64_t>(kernel.size_bytes())};
  return with_team(pool, device, [&](Team& team) {
    return run_fused(r, epilogue, x.untyped_data(), kernel.untyped_data(),
                     is_packed ? &packed : nullptr, result->untyped_data(), team);
  });
}

// A convolution of this kernel with a single output, whose kernel is packed like that of any other.
Request single_output(Element element, const std::vector<int64_t>& kernel, int64_t groups) {
  const size_t rank = kernel.size() - 2;
  Request r{};
  r.op = Operator::kConv;
  r.element = element;
  r.kernel = r.input = kernel;
  r.input.pop_back();
  r.input.insert(r.input.begin(), 1);
  r.input.back() *= groups;
  r.output.assign(rank + 2, 1);
  r.output.back() = kernel.back();
  r.strides.assign(rank, 1);
  r.dilation.assign(rank, 1);
  r.padding.assign(2 * rank, 0);
  r.groups = groups;
  return r;
}

ffi::Error handle_pack(ffi::ThreadPool pool, int32_t device, ffi::AnyBuffer kernel,
                       ffi::Result<ffi::AnyBuffer> packed, int64_t groups) {
  Element element;
  if (!element_of(kernel.element_type(), &element)) return wrong_types();
  const auto shape = vector_of(kernel.dimensions());
  if (shape.size() < 3 || groups < 1 || groups > (int64_t{1} << 31)) {
    return error("a kernel of at least 3 axes and a positive number of groups can be packed, not " +
                 to_string(shape) + " with groups=" + std::to_string(groups));
  }
  const Request r = single_output(element, shape, groups);
  return with_team(pool, device, [&](Team& team) {
    return pack(r, kernel.untyped_data(), packed->untyped_data(),
                static_cast<int64_t>(packed->size_bytes()), team);
  });
}

// The remaining operand, if there is one, is the bias.
ffi::Error handle_causal(ffi::ThreadPool pool, int32_t device, ffi::AnyBuffer x,
                         ffi::AnyBuffer kernel, ffi::Buffer<ffi::S32> ids, ffi::RemainingArgs args,
                         ffi::Result<ffi::AnyBuffer> result, int64_t before, int64_t dilation,
                         int64_t activation, double negative_slope) {
  CausalRequest r{};
  CausalCall call{};
  const ffi::DataType type = result->element_type();
  if (!element_of(type, &r.element) || x.element_type() != type || kernel.element_type() != type) {
    return wrong_types();
  }
  if (args.size() > 0) {
    const auto bias = args.get<ffi::AnyBuffer>(0);
    if (!bias.has_value()) return bias.error();
    if (bias->element_type() != type) return wrong_types();
    r.bias = vector_of(bias->dimensions());
    call.bias = bias->untyped_data();
  }
  r.x = vector_of(x.dimensions());
  r.kernel = vector_of(kernel.dimensions());
  r.ids = vector_of(ids.dimensions());
  r.result = vector_of(result->dimensions());
  call.x = x.untyped_data();
  call.kernel = kernel.untyped_data();
  call.ids = ids.typed_data();
  call.result = result->untyped_data();
  call.before = before;
  call.dilation = dilation;
  call.activation = static_cast<Activation>(activation);
  call.negative_slope = negative_slope;
  return with_team(pool, device, [&](Team& team) {
    call.team = &team;
    return run_causal(r, call);
  });
}

auto operator_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Ctx<ffi::DeviceOrdinal>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>()
      .Attr<Spans>("strides")
      .Attr<Spans>("padding")
      .Attr<Spans>("dilation")
      .Attr<int64_t>("groups");
}

auto fused_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Ctx<ffi::DeviceOrdinal>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .RemainingArgs()
      .Ret<ffi::AnyBuffer>()
      .Attr<Spans>("strides")
      .Attr<Spans>("padding")
      .Attr<Spans>("dilation")
      .Attr<int64_t>("groups")
      .Attr<bool>("has_scale")
      .Attr<bool>("has_bias")
      .Attr<bool>("has_residual")
      .Attr<int64_t>("activation")
      .Attr<double>("negative_slope")
      .Attr<Spans>("packed_shape");  // of a kernel that is packed, otherwise empty
}

auto causal_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Ctx<ffi::DeviceOrdinal>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::Buffer<ffi::S32>>()
      .RemainingArgs()
      .Ret<ffi::AnyBuffer>()
      .Attr<int64_t>("before")
      .Attr<int64_t>("dilation")
      .Attr<int64_t>("activation")
      .Attr<double>("negative_slope");
}

auto pack_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Ctx<ffi::DeviceOrdinal>()
      .Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>()
      .Attr<int64_t>("groups");
}

}  // namespace
}  // namespace jaxconv

#define JAXCONV_HANDLER(name, binding, function)                 \
  JAXCONV_EXPORT XLA_FFI_Error* name(XLA_FFI_CallFrame* frame) { \
    static auto handler = jaxconv::binding().To(jaxconv::function); \
    return handler->Call(frame);                                 \
  }

JAXCONV_HANDLER(jaxconv_conv, operator_binding, handle<jaxconv::Operator::kConv>)
JAXCONV_HANDLER(jaxconv_input_grad, operator_binding, handle<jaxconv::Operator::kInputGrad>)
JAXCONV_HANDLER(jaxconv_filter_grad, operator_binding, handle<jaxconv::Operator::kFilterGrad>)
JAXCONV_HANDLER(jaxconv_fused_conv, fused_binding, handle_fused)
JAXCONV_HANDLER(jaxconv_causal_conv, causal_binding, handle_causal)
JAXCONV_HANDLER(jaxconv_pack_kernel, pack_binding, handle_pack)
