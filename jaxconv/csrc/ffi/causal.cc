#include "ffi/causal.h"

#include "ffi/instruction_set.h"
#include "runtime/pages.h"

namespace jaxconv {
namespace {

std::string mismatch(const char* name, const Shape& got, const Shape& expected) {
  if (got == expected) return "";
  return std::string(name) + " must have shape " + to_string(expected) + ", but has shape " +
         to_string(got);
}

std::string check(const CausalRequest& r, const CausalCall& call) {
  if (r.x.size() != 3 || r.kernel.size() != 3) {
    return "x must be [N, L, C] and kernel [K, 1, C], but they have shapes " + to_string(r.x) +
           " and " + to_string(r.kernel);
  }
  const int64_t n = r.x[0], steps = r.x[1], channels = r.x[2], taps = r.kernel[0];
  if (taps < 1 || taps > kMaxCausalTaps || taps * channels > kMaxCausalWeights) {
    return "a kernel of 1 to " + std::to_string(kMaxCausalTaps) + " taps and at most " +
           std::to_string(kMaxCausalWeights) + " weights is supported, not " + to_string(r.kernel);
  }
  if (call.dilation < 1 || call.dilation >= int64_t{1} << 31) {
    return "dilation must be from 1 to 2**31 - 1, but is " + std::to_string(call.dilation);
  }
  const int64_t activation = static_cast<int64_t>(call.activation);
  if (activation < 0 || activation >= kActivations) {
    return "activation must be between 0 and " + std::to_string(kActivations - 1) + ", but is " +
           std::to_string(activation);
  }
  if (call.before < 0 || call.before > steps) {
    return "before must be from 0 to " + std::to_string(steps) + ", but is " +
           std::to_string(call.before);
  }
  std::string reason = mismatch("kernel", r.kernel, {taps, 1, channels});
  if (reason.empty()) {
    reason = mismatch("the result", r.result, {n, steps - call.before, channels});
  }
  if (reason.empty()) reason = mismatch("ids", r.ids, {n, steps});
  if (reason.empty() && call.bias) reason = mismatch("bias", r.bias, {channels});
  return reason;
}

}  // namespace

std::string run_causal(const CausalRequest& r, CausalCall call) {
  const std::string reason = check(r, call);
  if (!reason.empty()) return reason;
  call.batch = r.x[0];
  call.steps = r.result[1];
  call.channels = r.x[2];
  call.taps = r.kernel[0];
  const int64_t elements = call.batch * call.steps * call.channels;
  if (elements == 0) return "";
  prefer_large_pages(call.result, elements * element_size(r.element));
  const char* problem = instruction_set().causal[static_cast<int>(r.element)](call);
  return problem == nullptr ? "" : problem;
}

}  // namespace jaxconv
