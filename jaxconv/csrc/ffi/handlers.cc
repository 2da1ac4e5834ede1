// XLA FFI handlers of the three operators.

#include <cstdint>
#include <string>
#include <vector>

#include "ffi/export.h"
#include "ffi/request.h"
#include "ffi/teams.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxconv {
namespace {

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
        "jaxconv: operands and result must all have the same element type, one of float32, "
        "float64, bfloat16 and float16");
  }
  const auto shape_a = vector_of(a.dimensions()), shape_b = vector_of(b.dimensions());
  const auto shape_result = vector_of(result->dimensions());
  r.input = op == Operator::kInputGrad ? shape_result : shape_a;
  r.kernel = op == Operator::kFilterGrad ? shape_result : shape_b;
  r.output = op == Operator::kConv        ? shape_result
             : op == Operator::kInputGrad ? shape_a
                                          : shape_b;
  r.strides = vector_of(strides);
  r.padding = vector_of(padding);
  r.dilation = vector_of(dilation);
  r.groups = groups;

  std::string problem;
  const int64_t threads = injected_threads().load(std::memory_order_relaxed);
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

}  // namespace
}  // namespace jaxconv

#define JAXCONV_HANDLER(name, op)                                                        \
  JAXCONV_EXPORT XLA_FFI_Error* name(XLA_FFI_CallFrame* frame) {                         \
    static auto handler = jaxconv::binding().To(jaxconv::handle<jaxconv::Operator::op>); \
    return handler->Call(frame);                                                         \
  }

JAXCONV_HANDLER(jaxconv_conv, kConv)
JAXCONV_HANDLER(jaxconv_input_grad, kInputGrad)
JAXCONV_HANDLER(jaxconv_filter_grad, kFilterGrad)
