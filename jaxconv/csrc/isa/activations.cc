// The activations, compiled once per instruction set.

#include "isa/activations.h"

#include "isa/vector_math.h"

namespace jaxconv {
namespace JAXCONV_ISA {
namespace {

template <class A>
constexpr int kLanesOf = kVectorBytes / sizeof(A);

template <class A, class F>
JAXCONV_INLINE void replace(A* values, int64_t count, F&& f) {
  constexpr int N = kLanesOf<A>;
  for (int64_t i = 0; i < count; i += N) store<A, N>(values + i, f(load<A, N>(values + i)));
}

template <class A, int N = kLanesOf<A>>
Vec<A, N> relu6(Vec<A, N> x) {
  return at_most<A, N>(at_least<A, N>(x, A(0)), A(6));
}

// 0.5 * (1 + tanh(z)) is the sigmoid of 2*z. Relative error below 3e-5, which is reached in the
// tail, where rounding z matters and results are below 1e-20.
template <class A, int N = kLanesOf<A>>
Vec<A, N> gelu_tanh(Vec<A, N> x) {
  constexpr A kTwice = A(1.59576912160573071);  // 2 * sqrt(2/pi)
  return x * sigmoid<N>(kTwice * (x + A(0.044715) * (x * x * x)));
}

}  // namespace

template <class A>
void Activations<A>::apply(Activation activation, A negative_slope, A* values, int64_t count) {
  constexpr int N = kLanesOf<A>;
  using V = Vec<A, N>;
  switch (activation) {
    case Activation::kNone: return;
    case Activation::kRelu:
      return replace(values, count, [](V x) { return at_least<A, N>(x, A(0)); });
    case Activation::kRelu6: return replace(values, count, relu6<A>);
    case Activation::kLeakyRelu:
      return replace(values, count, [=](V x) { return x < A(0) ? x * negative_slope : x; });
    case Activation::kSilu: return replace(values, count, [](V x) { return x * sigmoid<N>(x); });
    case Activation::kGeluTanh: return replace(values, count, gelu_tanh<A>);
    case Activation::kGeluExact:
      return replace(values, count, [](V x) { return gelu_exact<N>(x); });
    case Activation::kSigmoid: return replace(values, count, [](V x) { return sigmoid<N>(x); });
    case Activation::kHardSwish:
      return replace(values, count, [](V x) { return x * relu6<A>(x + A(3)) * A(1.0 / 6.0); });
    case Activation::kTanh: return replace(values, count, [](V x) { return tanh<N>(x); });
  }
}

template struct Activations<float>;
template struct Activations<double>;

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
