// Rows of arrays that no cache holds, brought to the L2 cache in order before tiles ask for them.
//
// A tile reads its pixels' first vectors, then their second ones: with 128 features it hops by
// 512 bytes, which prefetchers of today's processors follow at a third of the speed at which they
// follow addresses that rise one by one (AMD EPYC: 11 against 29 GB/s a core from memory). Arrays
// that stay in the last cache come fast enough either way, and a second look at them costs a sixth.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Arrays that together take this much are fetched by rows: half of a usual last cache.
constexpr int64_t kFetchedBytes = int64_t{16} << 20;

// A fetched row stays in the L2 cache until its last use, if all that are in use take no more.
constexpr int64_t kFetchedRowsBytes = 512 << 10;

constexpr int64_t kCacheLine = 64;

// Gathers have work to do while rows are under way: they ask for them and go on. Filter gradients
// wait for both arrays at every tile, and are faster still if they read them.
enum class Fetch { kNone, kAsk, kRead };

template <class T>
JAXCONV_INLINE void fetch(Fetch how, const T* from, int64_t count) {
  const char* line = reinterpret_cast<const char*>(from);
  const char* end = reinterpret_cast<const char*>(from + count);
  if (how == Fetch::kAsk) {
    for (; line < end; line += kCacheLine) __builtin_prefetch(line, 0, 2);
  } else if (how == Fetch::kRead) {
    for (; line < end; line += kCacheLine) asm volatile("" ::"r"(*line));
  }
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
