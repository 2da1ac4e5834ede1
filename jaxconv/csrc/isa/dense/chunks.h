// Chunks of tiles, numbered through all regions together with their cost.
//
// Threads share the chunks in pieces of similar cost: chunks of a region with few taps are cheap.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

class Chunks {
 public:
  Chunks(int64_t max_regions, Workspace& workspace)
      : first_chunk_(workspace.take<int64_t>(max_regions + 1)),
        first_cost_(workspace.take<int64_t>(max_regions + 1)) {}

  void clear() {
    regions_ = 0;
    first_chunk_[0] = first_cost_[0] = 0;
  }

  // Adds a region of so many chunks that cost `each`.
  void add_region(int64_t chunks, int64_t each) {
    first_chunk_[regions_ + 1] = first_chunk_[regions_] + chunks;
    first_cost_[regions_ + 1] = first_cost_[regions_] + chunks * each;
    ++regions_;
  }

  int64_t count() const { return first_chunk_[regions_]; }
  int64_t cost() const { return first_cost_[regions_]; }

  // The region of a chunk, and the first chunk of a region.
  int64_t region_of(int64_t chunk) const { return find(first_chunk_, chunk); }
  int64_t first_of(int64_t region) const { return first_chunk_[region]; }

  // The first chunk that starts at this cumulative cost or later.
  int64_t chunk_at(int64_t cost) const {
    const int64_t i = find(first_cost_, cost);
    const int64_t chunks = first_chunk_[i + 1] - first_chunk_[i];
    const int64_t each = (first_cost_[i + 1] - first_cost_[i]) / chunks;
    return first_chunk_[i] + ceil_div(cost - first_cost_[i], each);
  }

 private:
  // The region whose range of `first` contains `at`, by bisection.
  int64_t find(const int64_t* first, int64_t at) const {
    int64_t low = 0, high = regions_ - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (first[middle + 1] <= at) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  int64_t regions_ = 0;
  int64_t *first_chunk_, *first_cost_;  // [regions + 1]
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
