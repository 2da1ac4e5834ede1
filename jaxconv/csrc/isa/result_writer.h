// Applies the epilogue of a fused convolution to accumulators and writes the results.
//
// The commonest epilogues, a bias and limits such as those of relu, cost little in the tiles: sums
// start at the bias, and are limited in registers. For all others a tile leaves its accumulators in
// an array in the L1 cache. One function then finishes tiles of every size, so that the tiles need
// not be compiled for every epilogue.

#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "call.h"
#include "isa/activations.h"
#include "isa/vec.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Accumulators of a tile: rows of pixels, `stride` apart, which is a whole number of vectors. They
// belong to `count` features from `feature` on.
template <class A>
struct TileSums {
  A* values;
  int64_t stride, rows;
  int64_t feature, count;
};

// Writes sums without an epilogue.
template <class T, class A>
void store_sums(const TileSums<A>& sums, void* const* targets) {
  for (int64_t r = 0; r < sums.rows; ++r) {
    store_elements(sums.values + r * sums.stride, sums.count,
                   static_cast<T*>(targets[r]) + sums.feature);
  }
}

// What the tiles do themselves.
template <class A>
struct TileEpilogue {
  const A* bias = nullptr;    // of all features, with room for a whole vector after the last
  const A* limits = nullptr;  // [2]: of the results
};

template <class A, int N, int R, int V>
JAXCONV_INLINE void start_sums(const TileEpilogue<A>& epilogue, int64_t feature,
                               Vec<A, N> (&acc)[R][V]) {
  if (epilogue.bias == nullptr) return;
  unroll<V>([&](auto v) JAXCONV_LAMBDA {
    const auto bias = load<A, N>(epilogue.bias + feature + v * N);
    unroll<R>([&](auto r) JAXCONV_LAMBDA { acc[r][v] = bias; });
  });
}

template <class A, int N, int V>
JAXCONV_INLINE void limit_sums(const TileEpilogue<A>& epilogue, Vec<A, N> (&acc)[V]) {
  if (epilogue.limits == nullptr) return;
  const A low = epilogue.limits[0], high = epilogue.limits[1];
  unroll<V>([&](auto v) JAXCONV_LAMBDA {
    acc[v] = at_most<A, N>(at_least<A, N>(acc[v], low), high);
  });
}
template <class A, int N, int R, int V>
JAXCONV_INLINE void limit_sums(const TileEpilogue<A>& epilogue, Vec<A, N> (&acc)[R][V]) {
  if (epilogue.limits == nullptr) return;
  const A low = epilogue.limits[0], high = epilogue.limits[1];
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    unroll<V>([&](auto v) JAXCONV_LAMBDA {
      acc[r][v] = at_most<A, N>(at_least<A, N>(acc[r][v], low), high);
    });
  });
}

template <class T>
class ResultWriter {
  using A = typename Accumulator<T>::type;
  using Sums = TileSums<A>;
  static constexpr int N = kVectorBytes / sizeof(A);

 public:
  // Whether there is an epilogue that tiles cannot compute themselves.
  static bool needed(const Call& call) {
    if (call.epilogue == nullptr) return false;
    return call.epilogue->scale != nullptr || call.epilogue->residual != nullptr ||
           !is_limit(call.epilogue->activation);
  }

  static int64_t bytes(const Call& call) {
    return call.epilogue == nullptr ? 0 : 2 * Workspace::bytes<A>(room(call));
  }

  ResultWriter(const Call& call, Workspace& workspace)
      : used_(call.epilogue != nullptr),
        needed_(needed(call)),
        result_(static_cast<const T*>(call.result)) {
    if (!used_) return;
    residual_ = static_cast<const T*>(call.epilogue->residual);
    scale_ = per_feature(call.epilogue->scale, A(1), call, workspace);
    bias_ = per_feature(call.epilogue->bias, A(0), call, workspace);
    negative_slope_ = static_cast<A>(call.epilogue->negative_slope);
    set_activation(call.epilogue->activation);
  }

  // Null if the tiles write their results themselves; `always`: if they compute no epilogue.
  const ResultWriter* for_tiles(bool always = false) const {
    return needed_ || (always && used_) ? this : nullptr;
  }
  TileEpilogue<A> in_tiles() const {
    if (!used_ || needed_) return {};
    return {bias_, limited_ ? limits_ : nullptr};
  }

  // Whether tiles can store their sums as results: sums have the type of elements, and no epilogue
  // is left.
  static constexpr bool kStoresSums = std::is_same_v<T, A>;

  // Writes the results of pixels that begin at `targets`, with the epilogue of `writer` unless it is
  // null. The sums are overwritten. Tiles call this function through a pointer, so that they need
  // not be compiled for every element type.
  static void write_tile(const void* writer, const Sums& sums, void* const* targets) {
    if (writer == nullptr) return store_sums<T>(sums, targets);
    static_cast<const ResultWriter*>(writer)->write(sums, targets);
  }
  __attribute__((noinline)) void write(const Sums& sums, void* const* targets) const {
    const int64_t feature = sums.feature;
    write_rows(sums, false,
               [=](int64_t r) JAXCONV_LAMBDA { return static_cast<T*>(targets[r]) + feature; });
  }

  // The same for pixels `step` apart, where `target` is the first result of the first of them. If
  // they are `streamed`, past the caches, they must be whole aligned vectors.
  __attribute__((noinline)) void write(const Sums& sums, T* target, int64_t step,
                                       bool streamed) const {
    write_rows(sums, streamed, [=](int64_t r) JAXCONV_LAMBDA { return target + r * step; });
  }

  // Prefetches the residual of a tile that is about to be computed.
  void prefetch(void* const* targets, int64_t rows, int64_t feature, int64_t count) const {
    if (residual_ == nullptr) return;
    constexpr int64_t kLine = 64 / sizeof(T);
    for (int64_t r = 0; r < rows; ++r) {
      const T* from = residual_ + (static_cast<T*>(targets[r]) + feature - result_);
      for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(from + i);
    }
  }

  // Writes the results of `count` features of one pixel that has no products.
  void write_zero_sums(T* target, int64_t feature, int64_t count) const {
    if (!used_) {
      std::memset(static_cast<void*>(target), 0, count * static_cast<int64_t>(sizeof(T)));
      return;
    }
    for (int64_t i = 0; i < count; i += N) {
      alignas(kVectorBytes) A zeros[N] = {};
      write({zeros, N, 1, feature + i, smaller(N, count - i)}, target + i, 0, false);
    }
  }

 private:
  static bool is_limit(Activation activation) {
    return activation == Activation::kNone || activation == Activation::kRelu ||
           activation == Activation::kRelu6;
  }

  static int64_t room(const Call& call) { return call.geometry.features + N; }

  // As accumulators, with room for a whole vector that starts at the last feature.
  static const A* per_feature(const void* from, A missing, const Call& call, Workspace& workspace) {
    A* values = workspace.take<A>(room(call));
    for (int64_t i = 0; i < room(call); ++i) values[i] = missing;
    if (from != nullptr) {
      copy_elements(static_cast<const T*>(from), call.geometry.features, values);
    }
    return values;
  }

  // Activations other than limits are a step of their own.
  void set_activation(Activation activation) {
    if (!is_limit(activation)) separate_ = activation;
    limited_ = is_limit(activation) && activation != Activation::kNone;
    if (limited_) limits_[0] = A(0);
    if (activation == Activation::kRelu6) limits_[1] = A(6);
  }

  // Members are read once: the compiler must assume that results overwrite them.
  template <class TargetOf>
  JAXCONV_INLINE void write_rows(const Sums sums, bool streamed, TargetOf&& target_of) const {
    const T *const result = result_, *const residual = residual_;
    const A low = limits_[0], high = limits_[1];
    const bool separate = separate_ != Activation::kNone;
    for (int64_t i = 0; i < sums.count; i += N) {
      const auto scale = load<A, N>(scale_ + sums.feature + i);
      const auto bias = load<A, N>(bias_ + sums.feature + i);
      const int64_t n = smaller(N, sums.count - i);
      A* values = sums.values + i;
      for (int64_t r = 0; r < sums.rows; ++r, values += sums.stride) {
        T* target = target_of(r) + i;
        auto z = load<A, N>(values) * scale + bias;
        if (residual != nullptr) z += load_some(residual + (target - result), n);
        z = at_most<A, N>(at_least<A, N>(z, low), high);
        if (separate) {
          store<A, N>(values, z);
        } else {
          put(target, z, n, streamed);
        }
      }
    }
    if (!separate) return;
    Activations<A>::apply(separate_, negative_slope_, sums.values, sums.rows * sums.stride);
    const A* values = sums.values;
    for (int64_t r = 0; r < sums.rows; ++r, values += sums.stride) {
      T* target = target_of(r);
      for (int64_t i = 0; i < sums.count; i += N) {
        put(target + i, load<A, N>(values + i), smaller(N, sums.count - i), streamed);
      }
    }
  }

  static JAXCONV_INLINE Vec<A, N> load_some(const T* from, int64_t n) {
    return n == N ? load<A, N>(from) : load<A, N, true>(from, n);
  }

  static JAXCONV_INLINE void put(T* target, Vec<A, N> z, int64_t n, bool streamed) {
    if constexpr (kStreams && std::is_same_v<T, A>) {
      if (streamed) return stream<A, N>(target, z);
    }
    if (n == N) {
      store<A, N>(target, z);
    } else {
      store<A, N, true>(target, z, n);
    }
  }

  bool used_;    // whether there is an epilogue
  bool needed_;  // by the tiles
  const T *result_, *residual_ = nullptr;
  const A *scale_ = nullptr, *bias_ = nullptr;
  A limits_[2] = {-std::numeric_limits<A>::infinity(), std::numeric_limits<A>::infinity()};
  bool limited_ = false;
  Activation separate_ = Activation::kNone;
  A negative_slope_ = 0;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
