// Chunks of features: how a span of features is divided, and how far apart its copies lie.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/depthwise/tile.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Divides a span of features evenly into chunks of at most `max_size`, rounded up to whole units.
// The last chunk also takes a remainder of less than a vector.
struct FeatureChunks {
  int64_t span, size, count;
  int64_t lanes;  // room for the largest chunk, in whole vectors

  FeatureChunks(int64_t span, int64_t max_size, int64_t unit, int64_t vector)
      : span(span),
        size(round_up(ceil_div(span, ceil_div(span, max_size)), unit)),
        count(larger(1, (span - vector) / size + 1)),
        lanes(smaller(round_up(span, vector), round_up(size, vector) + vector)) {}

  int64_t begin(int64_t i) const { return i * size; }
  int64_t end(int64_t i) const { return i + 1 == count ? span : (i + 1) * size; }
};

// Copies that every tile reads again must not share sets of the L1 cache with one another: nine
// taps 2048 bytes apart were read from the L2 cache.
constexpr int64_t kAliasBytes = 1024;

template <class A>
JAXCONV_INLINE bool aliased(int64_t features) {
  return features * static_cast<int64_t>(sizeof(A)) % kAliasBytes == 0;
}

// The distance between rows of so many features (whole vectors) that do not share sets.
template <class A>
JAXCONV_INLINE int64_t unaliased(int64_t features) {
  return aliased<A>(features) ? features + kLanes<A> : features;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
