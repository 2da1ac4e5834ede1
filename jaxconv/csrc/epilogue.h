// What a fused convolution computes after the products of each result.

#pragma once

#include <cstdint>

namespace jaxconv {

// None, then the order of ACTIVATIONS in jaxconv/_src/geometry/epilogue.py.
enum class Activation : int64_t {
  kNone,
  kRelu,
  kRelu6,
  kLeakyRelu,
  kSilu,
  kGeluTanh,
  kGeluExact,
  kSigmoid,
  kHardSwish,
  kTanh,
};
constexpr int64_t kActivations = 10;

// result = activation(sum * scale + bias + residual). Arrays have the element type of the result.
struct Epilogue {
  const void *scale, *bias;  // [features], or null
  const void* residual;      // like the result, or null
  Activation activation;
  double negative_slope;  // of kLeakyRelu
};

}  // namespace jaxconv
