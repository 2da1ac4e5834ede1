// The activations for one instruction set and accumulator type; compiled once per pair.

#include "isa/activations.h"

#include "isa/vector_math.h"

namespace jaxconv {
namespace JAXCONV_ISA {
namespace {

using A = JAXCONV_ELEMENT;
constexpr int N = kVectorBytes / sizeof(A);
using V = Vec<A, N>;

template <class F>
JAXCONV_INLINE void replace(A* values, int64_t count, F&& f) {
  for (int64_t i = 0; i < count; i += N) store<A, N>(values + i, f(load<A, N>(values + i)));
}

V relu6(V x) { return at_most<A, N>(at_least<A, N>(x, A(0)), A(6)); }

// 0.5 * (1 + tanh(z)) is the sigmoid of 2*z. Relative error below 3e-5, which is reached in the
// tail, where rounding z matters and results are below 1e-20.
V gelu_tanh(V x) {
  constexpr A kTwice = A(1.59576912160573071);  // 2 * sqrt(2/pi)
  return x * sigmoid<N>(kTwice * (x + A(0.044715) * (x * x * x)));
}

}  // namespace

template <class A>
void Activations<A>::apply(Activation activation, A negative_slope, A* values, int64_t count) {
  switch (activation) {
    case Activation::kNone: return;
    case Activation::kRelu:
      return replace(values, count, [](V x) { return at_least<A, N>(x, A(0)); });
    case Activation::kRelu6: return replace(values, count, relu6);
    case Activation::kLeakyRelu:
      return replace(values, count, [=](V x) { return x < A(0) ? x * negative_slope : x; });
    case Activation::kSilu: return replace(values, count, [](V x) { return x * sigmoid<N>(x); });
    case Activation::kGeluTanh: return replace(values, count, gelu_tanh);
    case Activation::kGeluExact:
      return replace(values, count, [](V x) { return gelu_exact<N>(x); });
    case Activation::kSigmoid: return replace(values, count, [](V x) { return sigmoid<N>(x); });
    case Activation::kHardSwish:
      return replace(values, count, [](V x) { return x * relu6(x + A(3)) * A(1.0 / 6.0); });
    case Activation::kTanh: return replace(values, count, [](V x) { return tanh<N>(x); });
  }
}

template struct Activations<A>;

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
