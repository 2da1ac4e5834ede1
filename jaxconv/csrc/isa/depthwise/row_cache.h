// Rows of sources copied whole, and kept as long as rows of targets see them.
//
// What tiles cannot read in place they read from copies: other types, features spread over their
// multiplier, less than a vector of them, and pixels that lie a multiple of kSetsBytes apart. A row
// is copied when the first row of targets sees it; the next ones find it in its slot.

#pragma once

#include <cstdint>

#include "isa/depthwise/sources.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Kept rows share the L2 cache with a row of targets.
constexpr int64_t kKeptBytes = 256 << 10;

// Addresses this far apart fall on one set of the L1 cache. 3x3 tiles read 40 lines at once: with
// 1024 features all on one set of 8, and from copies a third faster.
constexpr int64_t kSetsBytes = 4096;

template <class T>
class KeptRows {
  using A = typename Accumulator<T>::type;
  static constexpr int N = kLanes<A>;

 public:
  // What one thread has.
  struct Slots {
    int64_t* held;  // the row in each slot, by where it begins in its image; negative: none
    A* copies;
  };

  // `span`: how many rows of one plane there are from the first that a row of targets sees to the
  // last. So many neighbouring rows have slots of their own in each of `planes`.
  KeptRows(int64_t planes, int64_t span, int64_t columns, int64_t features)
      : partial_(features < N),
        span_(span),
        columns_(columns),
        lanes_(unaliased<A>(round_up(features, N))) {
    // Divided, for the product of sizes may be past 64 bits.
    const int64_t slots = kKeptBytes / static_cast<int64_t>(sizeof(A)) / lanes_ / columns;
    fit_ = planes <= slots / span;
    slots_ = fit_ ? planes * span : 0;
  }

  bool fit() const { return fit_; }
  int64_t lanes() const { return lanes_; }  // of a pixel

  int64_t bytes() const {
    return Workspace::bytes<int64_t>(slots_) + Workspace::bytes<A>(copies());
  }

  Slots take(Workspace& workspace) const {
    Slots s{workspace.take<int64_t>(slots_), workspace.take<A>(copies())};
    if (partial_) std::memset(s.copies, 0, sizeof(A) * copies());  // the lanes past them are read
    return s;
  }

  int64_t slot(int64_t plane, int64_t row) const { return plane * span_ + row % span_; }

  const A* row(const Slots& s, int64_t slot) const { return s.copies + slot * columns_ * lanes_; }

  // Another image has other rows.
  void forget(const Slots& s) const {
    for (int64_t i = 0; i < slots_; ++i) s.held[i] = -1;
  }

  // Copies `channels` of a row's pixels, which lie `step` apart, if the slot does not hold it yet.
  void keep(const Slots& s, int64_t slot, int64_t row, const T* from, int64_t step,
            int64_t channels, const Spread<T>& spread) const {
    if (s.held[slot] == row) return;
    s.held[slot] = row;
    A* to = s.copies + slot * columns_ * lanes_;
    for (int64_t c = 0; c < columns_; ++c) spread.copy(from + c * step, channels, to + c * lanes_);
  }

 private:
  int64_t copies() const { return slots_ * columns_ * lanes_; }

  bool partial_, fit_;  // partial: vectors, as there is less than one of features
  int64_t span_, slots_, columns_, lanes_;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
