// Copies of source pixels with one value per feature.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/depthwise/tile.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Copies pixels as accumulators and repeats each channel `multiplier` times.
template <class T>
class ChannelRepeat {
  using A = typename Accumulator<T>::type;
  static constexpr int N = kLanes<A>;
  static constexpr int kMaxMultiplier = 8;  // as checked in ffi/request.cc

 public:
  explicit ChannelRepeat(int64_t multiplier) : multiplier_(multiplier) {
    for (int64_t j = 0; j < multiplier; ++j) {
      for (int l = 0; l < N; ++l) lane_[j][l] = static_cast<int32_t>((j * N + l) / multiplier);
    }
  }

  int64_t multiplier() const { return multiplier_; }

  // Reads `channels` elements; with a multiplier above 1 it writes whole vectors.
  void copy(const T* from, int64_t channels, A* to) const {
    if (multiplier_ == 1) return copy_elements(from, channels, to);
    for (int64_t left = channels; left > 0; left -= N, from += N) {
      const auto v = left >= N ? load<A, N>(from) : load<A, N, true>(from, left);
      for (int64_t j = 0; j < multiplier_ && j * N < left * multiplier_; ++j, to += N) {
        store<A, N>(to, permute<A, N>(v, load_bits<Vec<int32_t, N>>(lane_[j])));
      }
    }
  }

 private:
  int64_t multiplier_;
  int32_t lane_[kMaxMultiplier][N];
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
