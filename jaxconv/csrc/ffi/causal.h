// A depthwise causal convolution of packed sequences, as it arrives.

#pragma once

#include <string>

#include "causal_call.h"
#include "ffi/request.h"

namespace jaxconv {

struct CausalRequest {
  Element element;
  Shape x, kernel, ids, result;
  Shape bias;  // if it is not null in the call
};

// Checks and computes the call, whose sizes follow from the request. An empty string, or an error
// message.
std::string run_causal(const CausalRequest& request, CausalCall call);

}  // namespace jaxconv
