// The depthwise filter gradient: sums of products over all targets.
//
// Rows of targets are divided into parts, and features into chunks. Each part accumulates sums of
// its own, which are added at the end, in order.

#pragma once

#include <cstdint>
#include <cstring>

#include "isa/depthwise/run.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Tiles read and write the sums of a chunk: they should fit half of the L2 cache.
constexpr int64_t kMaxSumsBytes = 256 << 10;

// Decided by shape alone, so that the order of summation does not depend on the number of threads.
template <class T>
struct DepthwiseFilterGradPlan {
  using A = typename Accumulator<T>::type;

  const bool direct;  // tiles read the cotangents themselves
  const DepthwisePlan<T> schedule;
  const FeatureChunks chunks;
  const int64_t taps, features;
  const int64_t lanes;  // of a chunk's sums, from one tap to the next
  const int64_t parts;
  const int64_t chunks_at_once;  // whose sums fit the workspace together

  explicit DepthwiseFilterGradPlan(const Call& call)
      : direct(std::is_same_v<T, A> && call.geometry.features >= kLanes<A>),
        schedule(call.geometry, call.op, call.geometry.features / call.geometry.channels, false,
                 false),
        chunks(call.geometry.features, max_chunk_size(call.geometry, schedule.shape.unit),
               schedule.shape.unit, kLanes<A>),
        taps(call.geometry.taps()),
        features(call.geometry.features),
        lanes(unaliased<A>(chunks.lanes)),
        parts(number_of_parts(call.geometry)),
        chunks_at_once(clamp(kSumsBudget / (chunk_bytes() * parts), 1, chunks.count)) {}

  int64_t sums_size() const { return taps * lanes; }  // of a chunk and part
  int64_t all_sums_size() const { return chunks_at_once * parts * sums_size(); }
  int64_t cotangents_size() const { return direct ? 0 : kMaxTileWidth * schedule.stretches.lanes; }

 private:
  static constexpr int64_t kSumsBudget = kWorkspaceBytes / 2;

  int64_t chunk_bytes() const { return sums_size() * static_cast<int64_t>(sizeof(A)); }

  static int64_t max_chunk_size(const Geometry& g, int64_t unit) {
    const int64_t tap_bytes = g.taps() * static_cast<int64_t>(sizeof(A));
    int64_t size = g.features;
    while (size > 2 * unit && tap_bytes * size > kMaxSumsBytes) size = ceil_div(size, 2);
    return size;
  }

  int64_t number_of_parts(const Geometry& g) const {
    const int64_t pieces = pieces_for(depthwise_work<T>(g), 64);
    const int64_t wanted = ceil_div(smaller(pieces, 16), chunks.count);
    return clamp(kSumsBudget / (chunk_bytes() * chunks.count), 1,
                 smaller(wanted, schedule.rows.units));
  }
};

template <class T>
class DepthwiseFilterGradRun {
  using A = typename Accumulator<T>::type;
  using Tile = void (*)(const FilterTile<A>&);
  using Run = DepthwiseRun<T, Tile>;
  static constexpr int N = kLanes<A>;

  // What one thread has.
  struct Member {
    typename Run::Member run;
    A* cotangents;
  };

 public:
  static int64_t bytes(const DepthwiseFilterGradPlan<T>& plan) {
    return Run::bytes(plan.schedule) + Workspace::bytes<A>(plan.all_sums_size());
  }
  static int64_t member_bytes(const DepthwiseFilterGradPlan<T>& plan) {
    return Run::member_bytes(plan.schedule) + Workspace::bytes<A>(plan.cotangents_size()) +
           Workspace::bytes<Member>(1);
  }

  DepthwiseFilterGradRun(const Call& call, const DepthwiseFilterGradPlan<T>& plan,
                         Workspace& workspace, int64_t members)
      : plan_(plan),
        source_(static_cast<const T*>(call.source)),
        cotangents_(static_cast<const T*>(call.operand)),
        result_(static_cast<T*>(call.result)),
        row_length_(plan.schedule.shape.targets[2]),
        row_size_(call.geometry.axis[2].kernel * plan.lanes),
        run_(plan.schedule, workspace, choose_tile),
        members_(workspace.take<Member>(members)) {
    for (int64_t i = 0; i < members; ++i) {
      members_[i].run = run_.member(workspace);
      members_[i].cotangents = workspace.take<A>(plan.cotangents_size());
      std::memset(members_[i].cotangents, 0, sizeof(A) * plan.cotangents_size());
    }
    sums_ = workspace.take<A>(plan.all_sums_size());
  }

  // Accumulates the sums of one part of the targets and one of the chunks from `first_chunk` on.
  void accumulate(int64_t first_chunk, int64_t piece, int64_t member) const {
    const Member& m = members_[member];
    const int64_t part = piece % plan_.parts, chunk = first_chunk + piece / plan_.parts;
    const int64_t begin = plan_.chunks.begin(chunk), units = plan_.schedule.rows.units;
    A* sums = sums_ + piece * plan_.sums_size();
    std::memset(sums, 0, sizeof(A) * plan_.sums_size());
    run_.visit(
        {units * part / plan_.parts, units * (part + 1) / plan_.parts, source_, begin,
         plan_.chunks.end(chunk), row_size_},
        m.run, [](const Stretch&) {},
        [&](const Stretch& s, Tile tile, const TileSources<A>& sources, int64_t first,
            int64_t width) JAXCONV_LAMBDA {
          compute_tile(m, s, tile, sources, first, width, sums + (s.feature - begin));
        });
  }

  // Adds the parts' sums of one tap and writes the result, for `chunks` chunks from `first_chunk`
  // on.
  void add_parts(int64_t first_chunk, int64_t chunks, int64_t tap) const {
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t begin = plan_.chunks.begin(first_chunk + i);
      const int64_t features = plan_.chunks.end(first_chunk + i) - begin;
      const A* sums = sums_ + i * plan_.parts * plan_.sums_size() + tap * plan_.lanes;
      T* result = result_ + tap * plan_.features + begin;
      for (int64_t v = 0; v * N < features; ++v) {
        const int64_t feature = feature_of_vector<N>(v, larger(features, N));
        Vec<A, N> total = load<A, N>(sums + v * N);
        for (int64_t part = 1; part < plan_.parts; ++part) {
          total += load<A, N>(sums + part * plan_.sums_size() + v * N);
        }
        if (features >= N) {
          store<A, N>(result + feature, total);
        } else {
          store<A, N, true>(result, total, features);
        }
      }
    }
  }

 private:
  static Tile choose_tile(int64_t taps, int64_t spacing, int64_t width, int64_t) {
    return DepthwiseTiles<A>::filter(taps, spacing, width);
  }

  JAXCONV_INLINE void compute_tile(const Member& m, const Stretch& s, Tile tile,
                                   const TileSources<A>& sources, int64_t first, int64_t width,
                                   A* sums) const {
    const Phase& p = *s.phase;
    const int64_t pixel = s.row * row_length_ + p.first + p.step * first;
    const T* from = cotangents_ + pixel * plan_.features + s.feature;
    const int64_t step = p.step * plan_.features, staged_step = plan_.schedule.stretches.lanes;
    FilterTile<A> t{sources,
                    s.prefetch,
                    m.cotangents,
                    staged_step,
                    sums + p.tap_first * plan_.lanes,
                    s.kernel_row[0],
                    p.tap_step * plan_.lanes};
    if constexpr (std::is_same_v<T, A>) {
      if (plan_.direct) {
        t.cotangents = from;
        t.cotangent_step = step;
        t.prefetch.pixel = plan_.schedule.rows.rows_ahead() * row_length_ * plan_.features;
      }
    }
    for (int64_t j = 0; !plan_.direct && j < width; ++j) {
      copy_elements(from + j * step, s.features, m.cotangents + j * staged_step);
    }
    tile(t);
  }

  const DepthwiseFilterGradPlan<T>& plan_;
  const T *const source_, *const cotangents_;
  T* const result_;
  const int64_t row_length_, row_size_;
  const Run run_;
  Member* const members_;
  A* sums_;  // [chunks at once][parts][taps][lanes]
};

template <class T>
const char* depthwise_filter_grad(const Call& call) {
  const DepthwiseFilterGradPlan<T> plan(call);
  const int64_t shared_bytes = DepthwiseFilterGradRun<T>::bytes(plan);
  const int64_t member_bytes = DepthwiseFilterGradRun<T>::member_bytes(plan);
  const int64_t members = members_for(*call.team, member_bytes, shared_bytes);
  Workspace workspace(shared_bytes + members * member_bytes);
  if (!workspace.ok()) return kOutOfMemory;
  const DepthwiseFilterGradRun<T> run(call, plan, workspace, members);
  constexpr int N = kLanes<typename Accumulator<T>::type>;
  for (int64_t first = 0; first < plan.chunks.count; first += plan.chunks_at_once) {
    const int64_t chunks = smaller(plan.chunks_at_once, plan.chunks.count - first);
    share(*call.team, chunks * plan.parts, members, [&](int64_t piece, int64_t member) {
      run.accumulate(first, piece, member);
    });
    const int64_t pieces = pieces_for(plan.sums_size() * plan.parts * chunks / N, plan.taps);
    share(*call.team, pieces, members, [&](int64_t piece, int64_t) {
      const int64_t end = plan.taps * (piece + 1) / pieces;
      for (int64_t tap = plan.taps * piece / pieces; tap < end; ++tap) {
        run.add_parts(first, chunks, tap);
      }
    });
  }
  return nullptr;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
