// The packing step of sources: fills a stretch's table of pointers, and makes the copies that tiles
// read where the plan says that they cannot read the array in place.

#pragma once

#include <cstdint>
#include <cstring>

#include "isa/depthwise/plan.h"
#include "isa/depthwise/stretch.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
class SourceStaging {
  using A = typename Accumulator<T>::type;

 public:
  // The tables and copies of one thread.
  struct Member {
    int64_t *source_row, *slot, *kernel_row[2];
    const A** table;
    A* staged;
    typename RowCache<T>::Slots cache;
  };

  static int64_t bytes(const DepthwisePlan<T>& plan) {
    return Workspace::bytes<A>(plan.zeros_size());
  }
  static int64_t member_bytes(const DepthwisePlan<T>& plan) {
    return 4 * Workspace::bytes<int64_t>(plan.sources.max_rows) +
           Workspace::bytes<const A*>(plan.stretches.table_size) +
           Workspace::bytes<A>(plan.staged_size()) +
           (plan.row_cache() ? plan.sources.cache.bytes() : 0);
  }

  SourceStaging(const DepthwisePlan<T>& plan, Workspace& workspace)
      : plan_(plan),
        repeat_(plan.shape.repeat),
        channels_(plan.shape.channels),
        lanes_(plan.stretches.lanes),
        zeros_(workspace.take<A>(plan.zeros_size())) {
    std::memset(zeros_, 0, sizeof(A) * plan.zeros_size());
  }

  Member member(Workspace& workspace) const {
    const int64_t rows = plan_.sources.max_rows, staged_size = plan_.staged_size();
    Member m{};
    m.source_row = workspace.take<int64_t>(rows);
    m.slot = workspace.take<int64_t>(rows);
    for (int64_t*& row : m.kernel_row) row = workspace.take<int64_t>(rows);
    m.table = workspace.take<const A*>(plan_.stretches.table_size);
    m.staged = workspace.take<A>(staged_size);
    // Tiles read whole vectors, of which copies of fewer features fill a part.
    if (plan_.shape.features < kLanes<A>) std::memset(m.staged, 0, sizeof(A) * staged_size);
    if (plan_.row_cache()) m.cache = plan_.sources.cache.take(workspace);
    return m;
  }

  // Fills the table with where the columns of a stretch are, or will be once they are staged.
  void list(const Stretch& s, const T* image, const Member& m) const {
    const int64_t columns = s.columns();
    const RowCache<T>& cache = plan_.sources.cache;
    if (plan_.row_cache()) {
      list_columns<A>(s, s.phase->per_tap * cache.lanes(), zeros_, m.table,
                      [&](int64_t r, int64_t, int64_t at) {
                        return cache.row(m.cache, m.slot[r]) + at * cache.lanes();
                      });
    } else if (plan_.staged()) {
      list_columns<A>(s, lanes_, zeros_, m.table, [&](int64_t r, int64_t first, int64_t) {
        return m.staged + (r * columns + first) * lanes_;
      });
    } else if constexpr (std::is_same_v<T, A>) {
      list_columns<A>(s, s.phase->per_tap * channels_, zeros_, m.table,
                      [&](int64_t r, int64_t, int64_t at) {
                        return image + (s.source_row[r] + at * channels_);
                      });
    }
  }

  // Copies those of a unit's source rows that the row cache does not hold yet.
  void cache_rows(const Stretch& s, const T* image, int64_t feature, int64_t features,
                  const Member& m) const {
    const int64_t channel = feature / repeat_.multiplier();
    const int64_t channels = features / repeat_.multiplier();
    for (int64_t r = 0; r < s.rows; ++r) {
      plan_.sources.cache.keep(m.cache, m.slot[r], s.source_row[r],
                               image + s.source_row[r] + channel, channels_, channels, repeat_);
    }
  }

  // Copies the sources of a stretch's chunk of features.
  void stage(const Stretch& s, const T* image, const Member& m) const {
    const int64_t columns = s.columns(), step = s.phase->per_tap * channels_;
    const int64_t channel = s.feature / repeat_.multiplier();
    const int64_t channels = s.features / repeat_.multiplier();
    s.for_each_run([&](int64_t r, int64_t first, int64_t at, Range found) JAXCONV_LAMBDA {
      const T* from = image + (s.source_row[r] + at * channels_ + channel);
      A* to = m.staged + (r * columns + first) * lanes_;
      for (int64_t c = found.begin; c < found.end; ++c) {
        repeat_.copy(from + c * step, channels, to + c * lanes_);
      }
    });
  }

 private:
  const DepthwisePlan<T>& plan_;
  const ChannelRepeat<T> repeat_;
  const int64_t channels_, lanes_;
  A* const zeros_;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
