// The plan of a depthwise call: all that is decided from its sizes, before any memory is touched.

#pragma once

#include <cstdint>

#include "isa/depthwise/row_cache.h"
#include "isa/depthwise/shape.h"
#include "isa/depthwise/target_rows.h"
#include "runtime/last_cache.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// The sources and taps of a chunk of features take at most this share of the L1 cache: 7x7 over 96
// features at once ran at half the speed of chunks of 32 (see docs/design/measurements.md).
constexpr int64_t kMaxChunkBytes = 32 << 10;

// What a stretch may take: pointers of the L1 cache, copies of the L2 cache.
constexpr int64_t kMaxTableBytes = 32 << 10;
constexpr int64_t kMaxStagedBytes = 256 << 10;

// Tiles prefetch if the arrays take a quarter of the last cache or this much, because a network's
// other layers and other devices use the cache as well. Prefetching from 8 MiB on instead of 20,
// with a cache of 32, a MobileNetV1 training step takes 93 ms instead of 102 (see
// docs/design/measurements.md). The rows in use must fit the L2 cache, or what is prefetched is
// evicted before it is used.
constexpr int64_t kMinPrefetchBytes = int64_t{32} << 20;
constexpr int64_t kMaxPrefetchRowsBytes = 512 << 10;

// Results are written past the caches if the arrays take more than the last cache or this much:
// lines are then not read before they are overwritten, and evict nothing. 3x3 32x56x56x128 forward
// (100 MB) takes 2.6 ms instead of 3.9 (see docs/design/measurements.md).
constexpr int64_t kMinStreamBytes = int64_t{48} << 20;

enum class SourceAccess {
  kInPlace,   // tiles read the array
  kRowCache,  // tiles read copies of whole rows, kept for later rows of targets
  kStaged,    // tiles read copies made for one stretch
};

template <class T>
struct SourcePlan {
  using A = typename Accumulator<T>::type;

  int64_t max_rows;  // of sources that a unit uses
  RowCache<T> cache;  // used if `access` says so
  SourceAccess access;
  bool prefetch;

  SourcePlan(const DepthwiseShape<T>& shape, const TargetRows<T>& rows)
      : max_rows(shape.axis[0].kernel * (shape.axis[1].kernel + rows.per_unit - 1)),
        cache(shape.axis[0].kernel, row_span(shape, rows), shape.sources[2], shape.features) {
    const bool copied = !std::is_same_v<T, A> || shape.repeat > 1 || shape.features < kLanes<A>;
    // Pixels a multiple of 4 KiB apart share one set of the L1 cache.
    const bool crowded = shape.op != Operator::kFilterGrad && shape.pixel_bytes() % kSetsBytes == 0;
    const bool cached = (copied || crowded) && rows.segments == 1 && cache.fits();
    access = cached   ? SourceAccess::kRowCache
             : copied ? SourceAccess::kStaged
                      : SourceAccess::kInPlace;
    prefetch = access == SourceAccess::kInPlace &&
               max_rows * shape.row_bytes() <= kMaxPrefetchRowsBytes &&
               shape.array_bytes() >= smaller(last_cache_bytes() / 4, kMinPrefetchBytes);
  }

 private:
  // The number of source rows from the first to the last that a unit uses in a plane.
  static int64_t row_span(const DepthwiseShape<T>& shape, const TargetRows<T>& rows) {
    int64_t span = 1;
    for (int64_t i = 0; i < shape.phases[1]; ++i) {
      const Phase p = phase(shape.axis[1], shape.op, i);
      span = larger(span, p.per_tap * (p.taps + rows.per_unit - 2) + 1);
    }
    return span;
  }
};

template <class T>
struct StretchPlan {
  using A = typename Accumulator<T>::type;

  int64_t row_phases = 0;
  int64_t chunk_size;   // features
  int64_t lanes;        // of a staged pixel
  int64_t max_targets;  // of a stretch
  int64_t table_size;   // pointers

  // `buffered`: the targets of a tile are kept in the L1 cache as well, for an epilogue.
  StretchPlan(const DepthwiseShape<T>& shape, const TargetRows<T>& rows,
              const SourcePlan<T>& sources, bool buffered) {
    constexpr int N = kLanes<A>;
    constexpr int64_t kElementBytes = sizeof(A);
    int64_t max_spacing = 1, longest = 1;
    shape.for_each_row_phase([&](const Phase& p) {
      max_spacing = larger(max_spacing, column_spacing(p));
      longest = larger(longest, ceil_div(p.count, rows.segments));
      ++row_phases;
    });
    const int64_t taps = shape.max_row_taps();
    const auto columns = [&](int64_t targets) { return (targets - 1) * max_spacing + taps; };
    const int64_t tile_rows = shape.kernel_rows() * (columns(kMaxTileWidth) + taps);
    const int64_t buffer_rows = buffered ? rows.per_unit * kMaxTileWidth : 0;
    const int64_t feature_bytes = (tile_rows + buffer_rows) * kElementBytes;
    chunk_size = larger(kMaxChunkBytes / feature_bytes / N, 2) * N;
    lanes = unaliased<A>(FeatureChunks(shape.features, chunk_size, shape.unit, N).lanes);
    const bool staged = sources.access == SourceAccess::kStaged;
    const int64_t column_bytes = sources.max_rows * (8 + (staged ? lanes * kElementBytes : 0));
    const int64_t max_columns = (staged ? kMaxStagedBytes : kMaxTableBytes) / column_bytes;
    max_targets = clamp((max_columns - taps) / max_spacing + 1, 1, longest);
    // Whole tiles, and stretches of about equal length.
    const int64_t even = round_up(ceil_div(longest, ceil_div(longest, max_targets)), kMaxTileWidth);
    if (even < max_targets) max_targets = even;
    table_size = sources.max_rows * columns(max_targets);
  }
};

// `repeat`: features per source channel. With `pairs`, for which strides must be 1, two rows of
// targets are computed at once.
template <class T>
struct DepthwisePlan {
  using A = typename Accumulator<T>::type;

  const DepthwiseShape<T> shape;
  const TargetRows<T> rows;
  const SourcePlan<T> sources;
  const StretchPlan<T> stretches;

  DepthwisePlan(const Geometry& g, Operator op, int64_t repeat, bool pairs, bool buffered)
      : shape(g, op, repeat),
        rows(shape, pairs),
        sources(shape, rows),
        stretches(shape, rows, sources, buffered) {}

  bool streams() const {
    return shape.array_bytes() >= smaller(last_cache_bytes(), kMinStreamBytes);
  }
  bool row_cache() const { return sources.access == SourceAccess::kRowCache; }
  bool staged() const { return sources.access == SourceAccess::kStaged; }
  int64_t staged_size() const { return staged() ? stretches.table_size * stretches.lanes : 0; }
  int64_t zeros_size() const {
    return larger(larger(shape.channels, stretches.lanes), sources.cache.lanes());
  }
};

// Vector operations of a depthwise call, memory traffic included.
template <class T>
JAXCONV_INLINE int64_t depthwise_work(const Geometry& g) {
  const int64_t vector = kVectorBytes / static_cast<int64_t>(sizeof(T));
  const int64_t macs = g.batch * g.outputs() * g.taps() * g.features;
  const int64_t moved = g.batch * (g.inputs() * g.channels + g.outputs() * g.features);
  return macs / vector + 4 * moved / vector;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
