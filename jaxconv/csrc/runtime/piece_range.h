// The pieces of a job that one thread is to compute, from which others take when they run out.

#pragma once

#include <atomic>
#include <cstdint>

namespace jaxconv {

// Neighboring pieces, because neighbors share sources, and because what a thread wrote in one
// call it finds in its cache in the next. The owner takes half of the remaining pieces at a time
// from the front, other threads from the back. Compared with one counter for all threads, 3x3
// 4x28x28x64 following another convolution takes 0.035 ms instead of 0.047 (see
// docs/design/measurements.md).
class PieceRange {
 public:
  static constexpr int64_t kMaxPieces = int64_t{1} << 31;  // ordinals of 32 bits

  void set(int64_t begin, int64_t end) { ends_.store(packed(begin, end)); }

  // The number of pieces taken, from *begin on; 0 if none are left.
  int64_t take_front(int64_t* begin) { return take<true>(begin); }
  int64_t take_back(int64_t* begin) { return take<false>(begin); }

 private:
  static uint64_t packed(int64_t begin, int64_t end) {
    return static_cast<uint64_t>(begin) << 32 | static_cast<uint64_t>(end);
  }

  template <bool Front>
  int64_t take(int64_t* first) {
    uint64_t ends = ends_.load(std::memory_order_relaxed), rest;
    int64_t count;
    do {
      const int64_t begin = ends >> 32, end = ends & 0xffffffff;
      count = (end - begin + 1) / 2;
      if (count == 0) return 0;
      *first = Front ? begin : end - count;
      rest = Front ? packed(begin + count, end) : packed(begin, end - count);
    } while (!ends_.compare_exchange_weak(ends, rest, std::memory_order_relaxed));
    return count;
  }

  std::atomic<uint64_t> ends_{0};
};

}  // namespace jaxconv
