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

// Arrays that together take this much are fetched by rows: two thirds of a last cache of 32 MiB.
constexpr int64_t kFetchedBytes = int64_t{20} << 20;

// A fetched row stays in the L2 cache until its last use, if all that are in use take no more.
constexpr int64_t kFetchedRowsBytes = 512 << 10;

constexpr int64_t kCacheLine = 64;

enum class Fetch { kNone, kAsk, kRead };

// Gathers have work to do while rows are under way: they ask for them and go on. Filter gradients
// wait for both arrays at every tile, and are twice as fast if they read them first.
static inline Fetch fetch_for(Operator op, int64_t bytes) {
  if (bytes < kFetchedBytes) return Fetch::kNone;
  return op == Operator::kFilterGrad ? Fetch::kRead : Fetch::kAsk;
}

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
