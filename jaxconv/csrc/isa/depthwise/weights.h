// A kernel as tiles read it, all of its features at once: in place where it is whole vectors of
// accumulators and neighbouring taps don't fall on the same sets of the L1 cache, otherwise as a
// copy, as long as that is small. In place, 3x3 taps of 512 features were pushed out of the L1
// cache by the sources and read from L2 for every tile, at two thirds of the speed.

#pragma once

#include <cstdint>
#include <cstring>

#include "isa/depthwise/sources.h"
#include "geometry.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
class WholeKernel {
  using A = typename Accumulator<T>::type;
  static constexpr int N = kLanes<A>;
  static constexpr int64_t kCopyBytes = 256 << 10;

 public:
  WholeKernel(const Geometry& g, bool whole_vectors)
      : taps_(g.taps()), features_(g.features), step_(unaliased<A>(round_up(features_, N))) {
    const bool small = step_ <= kCopyBytes / static_cast<int64_t>(sizeof(A)) / taps_;
    direct_ = whole_vectors && !(aliased<A>(features_) && small);
    copied_ = small && !direct_;
    if (direct_) step_ = features_;
  }

  bool whole() const { return direct_ || copied_; }
  int64_t step() const { return step_; }  // from one tap to the next
  int64_t bytes() const { return copied_ ? Workspace::bytes<A>(taps_ * step_) : 0; }

  // Null unless it is there as a whole.
  const A* prepare(Workspace& workspace, const T* kernel) const {
    if constexpr (std::is_same_v<T, A>) {
      if (direct_) return kernel;
    }
    if (!copied_) return nullptr;
    A* copy = workspace.take<A>(taps_ * step_);
    if (features_ < N) std::memset(copy, 0, sizeof(A) * taps_ * step_);  // the lanes past them
    for (int64_t t = 0; t < taps_; ++t) {
      copy_elements(kernel + t * features_, features_, copy + t * step_);
    }
    return copy;
  }

 private:
  int64_t taps_, features_, step_;
  bool direct_, copied_;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
