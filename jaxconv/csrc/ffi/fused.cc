#include "ffi/fused.h"

namespace jaxconv {
namespace {

std::string check_array(const char* name, const EpilogueArray& array, const Shape& expected) {
  if (array.data == nullptr || array.shape == expected) return "";
  return std::string(name) + " must have shape " + to_string(expected) + ", but has shape " +
         to_string(array.shape);
}

std::string check_epilogue(const Request& r, const EpilogueRequest& e) {
  if (r.op != Operator::kConv) return "only the forward convolution can have an epilogue";
  if (e.activation < 0 || e.activation >= kActivations) {
    return "activation must be between 0 and " + std::to_string(kActivations - 1) + ", but got " +
           std::to_string(e.activation);
  }
  const Shape features{r.output.back()};
  for (const std::string& reason :
       {check_array("scale", e.scale, features), check_array("bias", e.bias, features),
        check_array("residual", e.residual, r.output)}) {
    if (!reason.empty()) return reason;
  }
  return "";
}

// Whether the epilogue changes nothing.
bool trivial(const Epilogue& e) {
  return e.scale == nullptr && e.bias == nullptr && e.residual == nullptr &&
         e.activation == Activation::kNone;
}

}  // namespace

std::string run_fused(const Request& request, const EpilogueRequest& epilogue, const void* source,
                      const void* operand, const PackedKernel* packed, void* result, Team& team) {
  std::string reason = unsupported_reason(request);
  if (reason.empty()) reason = check_epilogue(request, epilogue);
  if (reason.empty() && packed != nullptr) reason = check_packed(request, *packed);
  if (!reason.empty()) return reason;
  const Epilogue checked{epilogue.scale.data, epilogue.bias.data, epilogue.residual.data,
                         static_cast<Activation>(epilogue.activation), epilogue.negative_slope};
  Call call{};
  call.source = source;
  call.operand = operand;
  call.result = result;
  call.team = &team;
  call.epilogue = trivial(checked) ? nullptr : &checked;
  call.panels = packed != nullptr ? panels_of(*packed) : nullptr;
  return compute(request, call);
}

}  // namespace jaxconv
