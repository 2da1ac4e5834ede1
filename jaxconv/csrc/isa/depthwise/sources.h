// Where the tiles of a depthwise convolution find their sources.
//
// Tiles read through a table of pointers, one for each kernel row and column: to the sources in
// place where those are whole vectors of accumulators, or to staged copies that are. Columns in the
// padding point at zeros. A table serves all tiles of a stretch of targets.

#pragma once

#include <cstdint>

#include "isa/depthwise/tile.h"
#include "geometry.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Cuts a span of features evenly into chunks of at most `widest`, but whole units. The last takes
// up a rest of less than a vector.
struct FeatureCut {
  int64_t span, size, count;
  int64_t lanes;  // room for any of the chunks in whole vectors

  FeatureCut(int64_t span, int64_t widest, int64_t unit, int64_t vector)
      : span(span),
        size(round_up(ceil_div(span, ceil_div(span, widest)), unit)),
        count(larger(1, (span - vector) / size + 1)),
        lanes(smaller(round_up(span, vector), round_up(size, vector) + vector)) {}

  int64_t begin(int64_t i) const { return i * size; }
  int64_t end(int64_t i) const { return i + 1 == count ? span : (i + 1) * size; }
};

// Arrays of rows of features that are copied, and read again for every tile, must not fall on the
// sets of the L1 cache that the tiles' sources sweep: nine taps 2048 bytes apart were read from L2.
constexpr int64_t kAliasBytes = 1024;

template <class A>
JAXCONV_INLINE bool aliased(int64_t features) {
  return features * static_cast<int64_t>(sizeof(A)) % kAliasBytes == 0;
}

// From one row of so many features, in whole vectors, to the next.
template <class A>
JAXCONV_INLINE int64_t unaliased(int64_t features) {
  return aliased<A>(features) ? features + kLanes<A> : features;
}

// Copies pixels as accumulators, each of their channels `multiplier` times over.
template <class T>
class Spread {
  using A = typename Accumulator<T>::type;
  static constexpr int N = kLanes<A>;
  static constexpr int kMost = 8;  // the multiplier of request.cc

 public:
  explicit Spread(int64_t multiplier) : multiplier_(multiplier) {
    for (int64_t j = 0; j < multiplier; ++j) {
      for (int l = 0; l < N; ++l) lane_[j][l] = static_cast<int32_t>((j * N + l) / multiplier);
    }
  }

  int64_t multiplier() const { return multiplier_; }

  // Reads `channels` of them; with a multiplier above 1 whole vectors are written.
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
  int32_t lane_[kMost][N];
};

// A stretch of one row of targets, or of two, and a chunk of their features.
struct Stretch {
  const Phase* phase;
  int64_t spacing;            // of neighbouring targets, in columns
  int64_t row;                // of targets, counted over the batch and all axes but the last
  int64_t target_rows;        // 1 or 2
  int64_t target, targets;    // the phase's
  int64_t rows;                  // of sources
  const int64_t* source_row;     // where each begins in the image
  const int64_t* kernel_row[2];  // and the taps for each row of targets
  int64_t upper, both;           // rows that the upper one alone sees, which come first, and both
  int64_t feature, features;
  Ahead ahead;  // without its pixels

  // Targets' columns overlap or adjoin, or where they are too far apart, are runs of their own.
  bool shared() const { return phase->per_target <= phase->per_tap * phase->taps; }
  int64_t runs() const { return shared() ? 1 : targets; }
  int64_t run_length() const {
    return shared() ? (targets - 1) * spacing + phase->taps : phase->taps;
  }
  int64_t columns() const { return runs() * run_length(); }

  // Calls f(row, first column, its source's index, those of the run that exist) for all runs.
  template <class F>
  JAXCONV_INLINE void for_each_run(F&& f) const {
    const int64_t length = run_length();
    for (int64_t g = 0; g < runs(); ++g) {
      const int64_t at = phase->source(target + g, 0);
      const Range found = inside(at, phase->per_tap, length, phase->sources);
      for (int64_t r = 0; r < rows; ++r) f(r, g * length, at, found);
    }
  }
};

// Lists pointers to the columns of a stretch. first_of(row, first column, its source's index) is
// where a run of them would begin; the next are `step` elements apart.
template <class A, class F>
JAXCONV_INLINE void list_columns(const Stretch& s, int64_t step, const A* zeros, const A** table,
                                 F&& first_of) {
  const int64_t columns = s.columns(), length = s.run_length();
  s.for_each_run([&](int64_t r, int64_t first, int64_t at, Range found) JAXCONV_LAMBDA {
    const A** entry = table + r * columns + first;
    const A* from = first_of(r, first, at);
    for (int64_t c = 0; c < found.begin; ++c) entry[c] = zeros;
    for (int64_t c = found.begin; c < found.end; ++c) entry[c] = from + c * step;
    for (int64_t c = found.end; c < length; ++c) entry[c] = zeros;
  });
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
