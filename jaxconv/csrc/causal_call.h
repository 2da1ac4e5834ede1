// One call of the depthwise causal convolution of packed sequences.
//
//   y[n, t, c] = activation(bias[c] + sum over k of  x[n, t - d*(K-1-k), c] * kernel[k, c])
//
// over those taps whose step has the same id as step t. Of x, the first `before` steps have no
// results, and t counts from the one after them.

#pragma once

#include <cstdint>

#include "epilogue.h"
#include "runtime/team.h"

namespace jaxconv {

struct CausalCall {
  int64_t batch, before, steps, channels, taps, dilation;
  const void* x;       // [batch, before + steps, channels]
  const void* kernel;  // [taps, channels]
  const int32_t* ids;  // [batch, before + steps]
  const void* bias;    // [channels], or null
  void* result;        // [batch, steps, channels]
  Activation activation;
  double negative_slope;  // of kLeakyRelu
  Team* team;
};

// Returns null, or an error message if the call could not be computed.
using ComputeCausal = const char* (*)(const CausalCall&);

// The compiled copies, per instruction set and element type.
#define JAXCONV_DECLARE_CAUSAL(isa)                                                   \
  namespace isa {                                                                     \
  const char *causal_float32(const CausalCall&), *causal_float64(const CausalCall&);  \
  const char *causal_bfloat16(const CausalCall&), *causal_float16(const CausalCall&); \
  }

JAXCONV_DECLARE_CAUSAL(baseline)
JAXCONV_DECLARE_CAUSAL(avx2)
JAXCONV_DECLARE_CAUSAL(avx512)

// With more, the weights would need too much workspace.
constexpr int64_t kMaxCausalTaps = 32;
constexpr int64_t kMaxCausalWeights = 1 << 18;

}  // namespace jaxconv
