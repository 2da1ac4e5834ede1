// SIMD vectors of compile-time size, on the vector extensions that GCC and Clang share.
//
// This header and everything that includes it is compiled once per instruction set, each time in
// its own namespace (JAXCONV_ISA), so that the linker never merges two of the copies.
// Within that namespace, the depthwise and the dense part must not give two types the same name:
// the linker would merge their functions.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define JAXCONV_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define JAXCONV_VECTOR_BYTES 32
#else
#define JAXCONV_VECTOR_BYTES 16
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
#define JAXCONV_VECTOR_REGISTERS 32
#else
#define JAXCONV_VECTOR_REGISTERS 16
#endif

#define JAXCONV_INLINE inline __attribute__((always_inline))
#define JAXCONV_LAMBDA __attribute__((always_inline))

namespace jaxconv {
namespace JAXCONV_ISA {

constexpr int kVectorBytes = JAXCONV_VECTOR_BYTES;
constexpr int kVectorRegisters = JAXCONV_VECTOR_REGISTERS;

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// The type in which products of T are summed.
template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

template <class A, int N>
struct VecOf {
  typedef A type __attribute__((vector_size(sizeof(A) * N)));
};
template <class A, int N>
using Vec = typename VecOf<A, N>::type;

// Calls f(Index<i>{}) for i = I, …, N-1. Arrays indexed by a constant stay in registers.
template <int I>
struct Index {
  static constexpr int value = I;
  constexpr operator int() const { return I; }
};
template <int... I>
using Indices = std::integer_sequence<int, I...>;
template <int N>
using IndicesBelow = std::make_integer_sequence<int, N>;

template <int I, class F, int... K>
JAXCONV_INLINE void unroll_from(F&& f, Indices<K...>) {
  (f(Index<I + K>{}), ...);
}
template <int N, int I = 0, class F>
JAXCONV_INLINE void unroll(F&& f) {
  unroll_from<I>(f, IndicesBelow<(N > I ? N - I : 0)>{});
}

template <class V>
JAXCONV_INLINE V load_bits(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class V, class From>
JAXCONV_INLINE V bit_cast(const From& from) {
  static_assert(sizeof(V) == sizeof(From), "bit_cast keeps the size");
  V v;
  std::memcpy(&v, &from, sizeof v);
  return v;
}

template <int N>
JAXCONV_INLINE Vec<float, N> widen(Vec<uint16_t, N> bits, bfloat16) {
  return bit_cast<Vec<float, N>>(__builtin_convertvector(bits, Vec<uint32_t, N>) << 16);
}

template <int N>
JAXCONV_INLINE Vec<uint16_t, N> narrow(Vec<float, N> v, bfloat16) {
  const auto u = bit_cast<Vec<uint32_t, N>>(v);
  const auto rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // to nearest, ties to even
  const auto quiet_nan = (u >> 16) | 0x40;
  const auto is_nan = bit_cast<Vec<uint32_t, N>>((u & 0x7fffffff) > 0x7f800000);
  return __builtin_convertvector((quiet_nan & is_nan) | (rounded & ~is_nan), Vec<uint16_t, N>);
}

// Without F16C, integer arithmetic wherever a subnormal may appear: XLA's threads flush subnormals
// to zero.
template <int N>
JAXCONV_INLINE Vec<float, N> widen(Vec<uint16_t, N> bits, float16) {
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    return bit_cast<Vec<float, N>>(_mm512_cvtph_ps(bit_cast<__m256i>(bits)));
  }
#endif
#if defined(__F16C__)
  if constexpr (N == 8) return bit_cast<Vec<float, N>>(_mm256_cvtph_ps(bit_cast<__m128i>(bits)));
#endif
  using U = Vec<uint32_t, N>;
  const auto h = __builtin_convertvector(bits, U);
  const U sign = (h & 0x8000) << 16;
  const U magnitude = (h & 0x7fff) << 13;
  const U finite = magnitude + (112u << 23);
  const U special = magnitude + (224u << 23);
  const auto offset = bit_cast<Vec<float, N>>(U{} + (113u << 23));
  const U tiny = bit_cast<U>(bit_cast<Vec<float, N>>(magnitude + (113u << 23)) - offset);
  const auto is_special = bit_cast<U>(magnitude >= (0x7c00u << 13));
  const auto is_tiny = bit_cast<U>(magnitude < (0x0400u << 13));
  return bit_cast<Vec<float, N>>(sign | (special & is_special) | (tiny & is_tiny) |
                                 (finite & ~is_special & ~is_tiny));
}

JAXCONV_INLINE uint16_t narrow_float16(float value) {
  const uint32_t u = bit_cast<uint32_t>(value);
  const uint32_t sign = (u >> 16) & 0x8000, magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds past 65504
  if (magnitude >= 0x38800000) {
    const uint32_t rebased = magnitude - (112u << 23);
    return static_cast<uint16_t>(sign | ((rebased + 0xfff + ((rebased >> 13) & 1)) >> 13));
  }
  if (magnitude < 0x33000000) return static_cast<uint16_t>(sign);  // rounds to zero
  const uint32_t shift = 126 - (magnitude >> 23);                  // 14 to 24
  const uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
  const uint32_t half = 1u << (shift - 1), odd = (mantissa >> shift) & 1;
  return static_cast<uint16_t>(sign | ((mantissa + half - 1 + odd) >> shift));
}

template <int N>
JAXCONV_INLINE Vec<uint16_t, N> narrow(Vec<float, N> v, float16) {
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    return bit_cast<Vec<uint16_t, N>>(_mm512_cvtps_ph(bit_cast<__m512>(v), 0));
  }
#endif
#if defined(__F16C__)
  if constexpr (N == 8) {
    return bit_cast<Vec<uint16_t, N>>(_mm256_cvtps_ph(bit_cast<__m256>(v), 0));
  }
#endif
  Vec<uint16_t, N> r;
  for (int i = 0; i < N; ++i) r[i] = narrow_float16(v[i]);
  return r;
}

// One lane at a time, and out of line: GCC takes minutes to compile them inlined into every tile.
template <class V, int N, class S>
__attribute__((noinline)) V load_lanes(const S* p, int64_t n) {
  S lanes[N] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load_bits<V>(lanes);
}
template <class V, int N, class S>
__attribute__((noinline)) void store_lanes(S* p, V v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = bit_cast<S>(v[i]);
}

// Whether a part of a vector is stored by one instruction.
#if defined(__AVX512VL__) && defined(__AVX512BW__)
constexpr bool kMaskedStores = true;
#else
constexpr bool kMaskedStores = false;
#endif

// Loads (below: stores) the first n < N lanes without touching memory past them. The other lanes of
// a load are zero.
template <class V, int N, class S>
JAXCONV_INLINE V load_first(const S* p, int64_t n) {
#if defined(__AVX512VL__) && defined(__AVX512BW__)
  const auto mask = (uint32_t{1} << n) - 1;
  if constexpr (sizeof(V) == 64 && sizeof(S) == 4) {
    return bit_cast<V>(_mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask), p));
  } else if constexpr (sizeof(V) == 64 && sizeof(S) == 8) {
    return bit_cast<V>(_mm512_maskz_loadu_epi64(static_cast<__mmask8>(mask), p));
  } else if constexpr (sizeof(V) == 32 && sizeof(S) == 2) {
    return bit_cast<V>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p));
  }
#endif
  return load_lanes<V, N>(p, n);
}

template <class V, int N, class S>
JAXCONV_INLINE void store_first(S* p, V v, int64_t n) {
#if defined(__AVX512VL__) && defined(__AVX512BW__)
  const auto mask = (uint32_t{1} << n) - 1;
  if constexpr (sizeof(V) == 64 && sizeof(S) == 4) {
    _mm512_mask_storeu_epi32(p, static_cast<__mmask16>(mask), bit_cast<__m512i>(v));
    return;
  } else if constexpr (sizeof(V) == 64 && sizeof(S) == 8) {
    _mm512_mask_storeu_epi64(p, static_cast<__mmask8>(mask), bit_cast<__m512i>(v));
    return;
  } else if constexpr (sizeof(V) == 32 && sizeof(S) == 2) {
    _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), bit_cast<__m256i>(v));
    return;
  }
#endif
  store_lanes<V, N>(p, v, n);
}

// Loads N elements as accumulators, or if Partial the first n; store() rounds accumulators back.
template <class A, int N, bool Partial = false, class T>
JAXCONV_INLINE Vec<A, N> load(const T* p, int64_t n = N) {
  if constexpr (sizeof(T) == 2) {
    using Bits = Vec<uint16_t, N>;
    if constexpr (Partial) return widen<N>(load_first<Bits, N>(p, n), T{});
    return widen<N>(load_bits<Bits>(p), T{});
  } else {
    if constexpr (Partial) return load_first<Vec<A, N>, N>(p, n);
    return load_bits<Vec<A, N>>(p);
  }
}

template <class A, int N, bool Partial = false, class T>
JAXCONV_INLINE void store(T* p, Vec<A, N> v, int64_t n = N) {
  if constexpr (sizeof(T) == 2) {
    const auto bits = narrow<N>(v, T{});
    if constexpr (Partial) {
      store_first<Vec<uint16_t, N>, N>(p, bits, n);
    } else {
      std::memcpy(p, &bits, sizeof bits);
    }
  } else if constexpr (Partial) {
    store_first<Vec<A, N>, N>(p, v, n);
  } else {
    std::memcpy(p, &v, sizeof v);
  }
}

// Non-temporal stores: they bypass the caches, and the line that they overwrite is not read first.
// `p` must be aligned to the vector. Other threads see the data only after finish_streams().
#if defined(__AVX512F__)
constexpr bool kStreams = true;
template <class A, int N>
JAXCONV_INLINE void stream(A* p, Vec<A, N> v) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), bit_cast<__m512i>(v));
}
JAXCONV_INLINE void finish_streams() { _mm_sfence(); }
#else
constexpr bool kStreams = false;
template <class A, int N>
JAXCONV_INLINE void stream(A* p, Vec<A, N> v) {
  store<A, N>(p, v);
}
JAXCONV_INLINE void finish_streams() {}
#endif

// Keeps a loaded value in a register: GCC otherwise folds the load into each multiply-add.
template <class V>
JAXCONV_INLINE V kept(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#endif
  return v;
}

template <class A, int N>
JAXCONV_INLINE Vec<A, N> broadcast(A value) {
  return value - Vec<A, N>{};  // x - 0 == x for every x, but -0 + 0 is +0
}

// The larger of x and `low`; below, the smaller of x and `high`. A NaN in x stays: comparisons with
// it are false, and the instructions return their second operand.
template <class A, int N>
JAXCONV_INLINE Vec<A, N> at_least(Vec<A, N> x, A low) {
  const auto bound = broadcast<A, N>(low);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<A, float> && N == 16) {
    return bit_cast<Vec<A, N>>(_mm512_max_ps(bit_cast<__m512>(bound), bit_cast<__m512>(x)));
  }
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<A, float> && N == 8) {
    return bit_cast<Vec<A, N>>(_mm256_max_ps(bit_cast<__m256>(bound), bit_cast<__m256>(x)));
  }
#endif
  return bound > x ? bound : x;
}
template <class A, int N>
JAXCONV_INLINE Vec<A, N> at_most(Vec<A, N> x, A high) {
  const auto bound = broadcast<A, N>(high);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<A, float> && N == 16) {
    return bit_cast<Vec<A, N>>(_mm512_min_ps(bit_cast<__m512>(bound), bit_cast<__m512>(x)));
  }
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<A, float> && N == 8) {
    return bit_cast<Vec<A, N>>(_mm256_min_ps(bit_cast<__m256>(bound), bit_cast<__m256>(x)));
  }
#endif
  return bound < x ? bound : x;
}

// Loads (below: stores) as many vectors of accumulators as there are indices, `step` apart. The inner
// loops of tiles are functions of index packs like these: lambdas, of which each level is inlined
// into the next, take GCC three times as long (see docs/design/measurements.md).
template <class A, class V, int... I>
JAXCONV_INLINE void load_each(const A* from, int64_t step, V (&to)[sizeof...(I)], Indices<I...>) {
  ((to[I] = load_bits<V>(from + I * step)), ...);
}
template <class A, class V, int... I>
JAXCONV_INLINE void store_each(const V (&from)[sizeof...(I)], A* to, int64_t step, Indices<I...>) {
  (std::memcpy(to + I * step, &from[I], sizeof(V)), ...);
}

// sums[i] += x * factors[i].
template <class V, int... I>
JAXCONV_INLINE void add_products(V x, const V (&factors)[sizeof...(I)], V (&sums)[sizeof...(I)],
                                 Indices<I...>) {
  ((sums[I] += x * factors[I]), ...);
}

// Single elements, for packing and for remainders.
JAXCONV_INLINE float to_accumulator(float v) { return v; }
JAXCONV_INLINE double to_accumulator(double v) { return v; }
JAXCONV_INLINE float to_accumulator(bfloat16 v) { return load<float, 1>(&v)[0]; }
JAXCONV_INLINE float to_accumulator(float16 v) { return load<float, 1>(&v)[0]; }

template <class T, class A>
JAXCONV_INLINE void store_element(T* p, A v) {
  store<A, 1>(p, Vec<A, 1>{v});
}

// Copies `count` elements as accumulators.
template <class T, class A>
JAXCONV_INLINE void copy_elements(const T* from, int64_t count, A* to) {
  constexpr int N = kVectorBytes / sizeof(A);
  int64_t i = 0;
  for (; i + N <= count; i += N) store<A, N>(to + i, load<A, N>(from + i));
  if (i < count) store<A, N, true>(to + i, load<A, N, true>(from + i, count - i), count - i);
}

// Rounds `count` accumulators to elements.
template <class T, class A>
JAXCONV_INLINE void store_elements(const A* from, int64_t count, T* to) {
  constexpr int N = kVectorBytes / sizeof(A);
  int64_t i = 0;
  for (; i + N <= count; i += N) store<A, N>(to + i, load<A, N>(from + i));
  if (i < count) store<A, N, true>(to + i, load<A, N, true>(from + i, count - i), count - i);
}

// Lane l of the result is lane index[l] of `v`.
#if defined(__AVX2__) && !defined(__clang__)
template <class A, int N>
JAXCONV_INLINE Vec<A, N> permute(Vec<A, N> v, Vec<int32_t, N> index) {
  using I = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  return __builtin_shuffle(v, __builtin_convertvector(index, Vec<I, N>));
}
#else
template <class A, int N>
__attribute__((noinline)) Vec<A, N> permute(Vec<A, N> v, Vec<int32_t, N> index) {
  Vec<A, N> r;
  for (int i = 0; i < N; ++i) r[i] = v[index[i]];
  return r;
}
#endif

// Alternates the lanes of `a` and `b`, taken from their lower or upper halves.
template <class A, int N, bool Upper, int... L>
JAXCONV_INLINE Vec<A, N> interleave(Vec<A, N> a, Vec<A, N> b, std::integer_sequence<int, L...>) {
  constexpr int kFirst = Upper ? N / 2 : 0;
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (kFirst + L / 2 + L % 2 * N)...);
#else
  using I = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  return __builtin_shuffle(a, b, Vec<I, N>{(kFirst + L / 2 + L % 2 * N)...});
#endif
}

// Transposes the N x N matrix whose rows are the N vectors: log2(N) times, row i is interleaved
// with row i + N/2.
template <class A, int N, int Left = N>
JAXCONV_INLINE void transpose(Vec<A, N> (&row)[N]) {
  if constexpr (Left > 1) {
    Vec<A, N> next[N];
    constexpr auto kLanes = std::make_integer_sequence<int, N>{};
    unroll<N / 2>([&](auto i) JAXCONV_LAMBDA {
      next[2 * i] = interleave<A, N, false>(row[i], row[i + N / 2], kLanes);
      next[2 * i + 1] = interleave<A, N, true>(row[i], row[i + N / 2], kLanes);
    });
    unroll<N>([&](auto i) JAXCONV_LAMBDA { row[i] = next[i]; });
    transpose<A, N, Left / 2>(row);
  }
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
