// The packing step of weights: a kernel as tiles read it.
//
// Tiles read the whole kernel in place if it consists of whole vectors of accumulators and
// neighboring taps do not share sets of the L1 cache, otherwise from a copy while that is small.
// (In place, 3x3 taps of 512 features were evicted by the sources for every tile, at two thirds of
// the speed.) Larger kernels are copied per stretch and chunk of features.

#pragma once

#include <cstdint>
#include <cstring>

#include "isa/depthwise/chunks.h"
#include "isa/depthwise/plan.h"
#include "isa/depthwise/stretch.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

constexpr int64_t kMaxKernelCopyBytes = 256 << 10;

template <class T>
class Weights {
  using A = typename Accumulator<T>::type;
  static constexpr int N = kLanes<A>;

 public:
  Weights(const Geometry& g, const DepthwisePlan<T>& plan, bool whole_vectors)
      : taps_(g.taps()),
        features_(g.features),
        kernel_rows_(plan.shape.kernel_rows()),
        row_taps_(g.axis[2].kernel),
        tap_step_(unaliased<A>(round_up(features_, N))) {
    const bool small = tap_step_ <= kMaxKernelCopyBytes / static_cast<int64_t>(sizeof(A)) / taps_;
    in_place_ = whole_vectors && !(aliased<A>(features_) && small);
    copied_ = small && !in_place_;
    if (in_place_) tap_step_ = features_;
    if (!whole()) tap_step_ = plan.stretches.lanes;
    row_size_ = (whole() ? row_taps_ : plan.shape.max_row_taps()) * tap_step_;
  }

  bool whole() const { return in_place_ || copied_; }
  int64_t tap_step() const { return tap_step_; }
  int64_t row_size() const { return row_size_; }

  int64_t bytes() const { return copied_ ? Workspace::bytes<A>(taps_ * tap_step_) : 0; }
  int64_t chunk_size() const { return whole() ? 0 : kernel_rows_ * row_size_; }

  // The whole kernel, or null if it is packed in chunks.
  const A* pack(Workspace& workspace, const T* kernel) const {
    if constexpr (std::is_same_v<T, A>) {
      if (in_place_) return kernel;
    }
    if (!copied_) return nullptr;
    A* copy = workspace.take<A>(taps_ * tap_step_);
    // Tiles read whole vectors, of which fewer features fill a part.
    if (features_ < N) std::memset(copy, 0, sizeof(A) * taps_ * tap_step_);
    for (int64_t t = 0; t < taps_; ++t) {
      copy_elements(kernel + t * features_, features_, copy + t * tap_step_);
    }
    return copy;
  }

  // The taps and features of a stretch.
  void pack_chunk(const T* kernel, const Stretch& s, A* chunk) const {
    const T* first = kernel + s.phase->tap_first * features_;
    for (int64_t r = 0; r < kernel_rows_; ++r) {
      const T* from = first + r * row_taps_ * features_ + s.feature;
      for (int64_t u = 0; u < s.phase->taps; ++u) {
        copy_elements(from + u * s.phase->tap_step * features_, s.features,
                      chunk + r * row_size_ + u * tap_step_);
      }
    }
  }

 private:
  int64_t taps_, features_, kernel_rows_, row_taps_;
  int64_t tap_step_, row_size_;  // in accumulators, as packed
  bool in_place_, copied_;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
