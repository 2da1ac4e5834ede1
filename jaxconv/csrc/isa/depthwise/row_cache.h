// Copies of whole source rows, kept for as long as later rows of targets use them.
//
// Used where tiles cannot read sources in place: other element types, channels repeated for a
// multiplier, less than a vector of features, and pixels a multiple of kSetsBytes apart. The first
// row of targets that uses a source row copies it; the next ones find it in its slot.

#pragma once

#include <cstdint>

#include "isa/depthwise/channel_repeat.h"
#include "isa/depthwise/chunks.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// The copies share the L2 cache with a row of targets.
constexpr int64_t kMaxRowCacheBytes = 256 << 10;

// Addresses this far apart share a set of the L1 cache. 3x3 tiles read 40 lines at once: with 1024
// features, all in one set of 8, they are a third faster from copies (see
// docs/design/measurements.md).
constexpr int64_t kSetsBytes = 4096;

template <class T>
class RowCache {
  using A = typename Accumulator<T>::type;
  static constexpr int N = kLanes<A>;

 public:
  // The copies of one thread.
  struct Slots {
    int64_t* held;  // the row in each slot, by its offset in the image; negative if empty
    A* copies;
  };

  // `span`: the number of rows in one plane from the first to the last that a row of targets uses.
  // As many neighboring rows have slots of their own in each of `planes`.
  RowCache(int64_t planes, int64_t span, int64_t columns, int64_t features)
      : partial_(features < N),
        span_(span),
        columns_(columns),
        lanes_(unaliased<A>(round_up(features, N))) {
    // By division: the product of these sizes may exceed 64 bits.
    const int64_t slots = kMaxRowCacheBytes / static_cast<int64_t>(sizeof(A)) / lanes_ / columns;
    fits_ = planes <= slots / span;
    slots_ = fits_ ? planes * span : 0;
  }

  bool fits() const { return fits_; }
  int64_t lanes() const { return lanes_; }  // of a pixel

  int64_t bytes() const {
    return Workspace::bytes<int64_t>(slots_) + Workspace::bytes<A>(copies());
  }

  Slots take(Workspace& workspace) const {
    Slots s{workspace.take<int64_t>(slots_), workspace.take<A>(copies())};
    if (partial_) std::memset(s.copies, 0, sizeof(A) * copies());  // tiles read whole vectors
    return s;
  }

  int64_t slot(int64_t plane, int64_t row) const { return plane * span_ + row % span_; }

  const A* row(const Slots& s, int64_t slot) const { return s.copies + slot * columns_ * lanes_; }

  // Empties all slots, for another image.
  void clear(const Slots& s) const {
    for (int64_t i = 0; i < slots_; ++i) s.held[i] = -1;
  }

  // Copies `channels` of a row's pixels, which lie `step` apart, unless the slot holds them
  // already.
  void keep(const Slots& s, int64_t slot, int64_t row, const T* from, int64_t step,
            int64_t channels, const ChannelRepeat<T>& repeat) const {
    if (s.held[slot] == row) return;
    s.held[slot] = row;
    A* to = s.copies + slot * columns_ * lanes_;
    for (int64_t c = 0; c < columns_; ++c) repeat.copy(from + c * step, channels, to + c * lanes_);
  }

 private:
  int64_t copies() const { return slots_ * columns_ * lanes_; }

  bool partial_, fits_;  // partial: less than a vector of features
  int64_t span_, slots_, columns_, lanes_;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
