// Exponential, sigmoid, tanh and the normal distribution, elementwise on vectors.
//
// In float32 as polynomials in vector registers, in float64 by the C library, lane by lane. NaN
// stays NaN. tests/kernels/test_fused.py checks the bounds stated here on dense samples.

#pragma once

#include <cmath>
#include <cstdint>

#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// c[0] + c[1]*x + … + c[K-1]*x**(K-1).
template <int N, int K>
JAXCONV_INLINE Vec<float, N> polynomial(Vec<float, N> x, const float (&c)[K]) {
  auto y = broadcast<float, N>(c[K - 1]);
  unroll<K, 1>([&](auto i) JAXCONV_LAMBDA { y = y * x + c[K - 1 - i]; });
  return y;
}

// exp(x + low) for |low| < 0.05. Relative error below 2e-7; infinite above 88.37, and zero below
// -87.68.
//
// exp(x) = 2**n * exp(r) with |r| <= log(2)/2. Adding 1.5 * 2**23 rounds x/log(2) to the integer n,
// which is then found in the lowest bits. log(2) is subtracted in two parts, of which the product
// of n with the first is exact. The exponent bits of 2**-127 and 2**128 are those of 0 and
// infinity.
template <int N>
JAXCONV_INLINE Vec<float, N> exp(Vec<float, N> x, Vec<float, N> low) {
  using I = Vec<int32_t, N>;
  constexpr float kRound = 12582912.0f;
  constexpr float kCoefficients[] = {1.0f,
                                     1.0f,
                                     4.9999984590956287e-1f,
                                     1.6666408452032128e-1f,
                                     4.166970746570666e-2f,
                                     8.380413228621184e-3f,
                                     1.379047038818211e-3f};
  x = at_most<float, N>(at_least<float, N>(x, -88.0f), 89.0f);
  const auto shifted = x * 1.44269504088896341f + kRound;
  const auto n = shifted - kRound;
  const auto r = ((x - n * 0.693359375f) + n * 2.12194440e-4f) + low;
  const I exponent = bit_cast<I>(shifted) - (bit_cast<int32_t>(kRound) - 127);
  return polynomial<N>(r, kCoefficients) * bit_cast<Vec<float, N>>(exponent << 23);
}

// 1/x for x >= 1, infinity included. Division has a throughput of 16 cycles with AVX-512; there the
// processor's estimate of 14 bits is refined by one step of Newton's method.
template <int N>
JAXCONV_INLINE Vec<float, N> reciprocal(Vec<float, N> x) {
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    const auto estimate = bit_cast<Vec<float, N>>(_mm512_rcp14_ps(bit_cast<__m512>(x)));
    return x > 1e37f ? Vec<float, N>{} : estimate + estimate * (1.0f - x * estimate);
  }
#endif
  return 1.0f / x;
}

// Relative error below 1e-6; results below 1e-37 may be zero.
template <int N>
JAXCONV_INLINE Vec<float, N> sigmoid(Vec<float, N> x) {
  return reciprocal<N>(1.0f + exp<N>(-x, Vec<float, N>{}));
}

// Relative error below 1e-6: a rational function, as in Eigen. It rounds to 1 at the limit.
template <int N>
JAXCONV_INLINE Vec<float, N> tanh(Vec<float, N> x) {
  constexpr float kNumerator[] = {
      4.89352455891786e-03f,  6.37261928875436e-04f, 1.48572235717979e-05f, 5.12229709037114e-08f,
      -8.60467152213735e-11f, 2.00018790482477e-13f, -2.76076847742355e-16f};
  constexpr float kDenominator[] = {4.89352518554385e-03f, 2.26843463243900e-03f,
                                    1.18534705686654e-04f, 1.19825839466702e-06f};
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  constexpr float kLimit = 7.99881172f;
#else
  constexpr float kLimit = 7.90531111f;
#endif
  x = at_most<float, N>(at_least<float, N>(x, -kLimit), kLimit);
  const auto square = x * x;
  return x * polynomial<N>(square, kNumerator) / polynomial<N>(square, kDenominator);
}

// x times the probability that a normal variable is below x. Relative error below 1e-6 where the
// result is not subnormal.
//
// With a = |x|, the probability of -a is exp(-a*a/2) * t * p(t), where t = 1/(1 + 0.27*a) and p is
// a polynomial fitted to a relative error of 3e-8. Rounding a*a would lose accuracy in the tail:
// the square of `high`, the upper half of the bits of a, is exact.
template <int N>
JAXCONV_INLINE Vec<float, N> gelu_exact(Vec<float, N> x) {
  using I = Vec<int32_t, N>;
  constexpr float kCoefficients[] = {
      1.0772100376145671e-1f, 1.0753727127763393e-1f,  1.0184856741247013e-1f,
      7.190830496580779e-2f,  1.0814260780585805e-1f,  -6.965074114982985e-2f,
      1.701561877452608e-1f,  -1.2665870402616658e-1f, 2.8995514192578238e-2f};
  const auto a = at_most<float, N>(bit_cast<Vec<float, N>>(bit_cast<I>(x) & 0x7fffffff), 16.0f);
  const auto high = bit_cast<Vec<float, N>>(bit_cast<I>(a) & ~0xfff);
  const auto density = exp<N>(high * high * -0.5f, (a - high) * (a + high) * -0.5f);
  const auto t = reciprocal<N>(a * 0.27f + 1.0f);
  const auto tail = density * (t * polynomial<N>(t, kCoefficients));
  return x * (x > 0.0f ? 1.0f - tail : tail);
}

// In float64, as accurate as the C library's.
template <int N, class F>
JAXCONV_INLINE Vec<double, N> each_lane(Vec<double, N> x, F&& f) {
  for (int i = 0; i < N; ++i) x[i] = f(x[i]);
  return x;
}
template <int N>
JAXCONV_INLINE Vec<double, N> sigmoid(Vec<double, N> x) {
  return each_lane<N>(x, [](double v) { return 1.0 / (1.0 + std::exp(-v)); });
}
template <int N>
JAXCONV_INLINE Vec<double, N> tanh(Vec<double, N> x) {
  return each_lane<N>(x, [](double v) { return std::tanh(v); });
}
template <int N>
JAXCONV_INLINE Vec<double, N> gelu_exact(Vec<double, N> x) {
  constexpr double kSqrtHalf = 0.70710678118654752440;
  return each_lane<N>(x, [](double v) { return 0.5 * v * std::erfc(-v * kSqrtHalf); });
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
