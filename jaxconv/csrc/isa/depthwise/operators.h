// Depthwise convolution: every group has one in-feature. No padded copy and no patches: tiles
// (depthwise_tile.h) read their sources through tables (depthwise_sources.h), rows of them shared
// out to threads (depthwise_walk.h).

#pragma once

#include <cstdint>

#include "isa/depthwise/weights.h"
#include "isa/depthwise/tile.h"
#include "isa/depthwise/schedule.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Vector operations of a depthwise call, memory traffic included.
template <class T>
JAXCONV_INLINE int64_t depthwise_work(const Geometry& g) {
  const int64_t vector = kVectorBytes / static_cast<int64_t>(sizeof(T));
  const int64_t macs = g.batch * g.outputs() * g.taps() * g.features;
  const int64_t moved = g.batch * (g.inputs() * g.channels + g.outputs() * g.features);
  return macs / vector + 4 * moved / vector;
}

// Adds each M neighbouring features to a channel, or each `fold` where M is not known.
template <int M, class T, class A>
void write_sums(const A* from, int64_t channels, int64_t fold, T* to) {
  const int64_t count = M > 0 ? M : fold;
  for (int64_t c = 0; c < channels; ++c, from += count) {
    A sum = from[0];
    for (int64_t m = 1; m < count; ++m) sum += from[m];
    store_element(to + c, sum);
  }
}

// Writes results of which each `fold` neighbours are added.
template <class T, class A>
void write_folded(const A* from, int64_t features, int64_t fold, T* to) {
  switch (fold) {
    case 1: return store_elements(from, features, to);
    case 2: return write_sums<2>(from, features / 2, fold, to);
    case 4: return write_sums<4>(from, features / 4, fold, to);
    default: return write_sums<0>(from, features / fold, fold, to);
  }
}

// An input gradient with a multiplier is computed as one value for each feature, and those of a
// channel are added afterwards.
template <class T>
const char* depthwise_gather(const Call& call) {
  using A = typename Accumulator<T>::type;
  using Tile = void (*)(const GatherTile<A>&);
  using Walk = DepthwiseWalk<T, Tile>;
  const Geometry& g = call.geometry;
  const bool gradient = call.op == Operator::kInputGrad;
  const int64_t multiplier = g.features / g.channels, fold = gradient ? multiplier : 1;
  const int64_t target_channels = gradient ? g.channels : g.features;
  const bool whole_vectors = std::is_same_v<T, A> && g.features >= kLanes<A>;
  const bool direct_targets = whole_vectors && fold == 1;
  const bool whole_lines = target_channels % kLanes<A> == 0 &&
                           reinterpret_cast<uintptr_t>(call.result) % kVectorBytes == 0;

  struct Own {
    typename Walk::Member walk;
    A *weights, *targets;
  };
  const Axis &h = g.axis[1], &w = g.axis[2];
  const bool pairs = h.stride == 1 && h.kernel > 1 && w.stride == 1 &&
                     DepthwiseTiles<A>::gather_pair(w.kernel, 1, 1) != nullptr;
  Walk walk(g, call.op, gradient ? 1 : multiplier, pairs);
  const bool streams = kStreams && direct_targets && whole_lines && walk.streams();
  const int64_t lanes = walk.lanes();
  const WholeKernel<T> kernel(g, whole_vectors);
  const int64_t row_size = kernel.whole() ? w.kernel * kernel.step() : walk.most_row_taps() * lanes;
  const int64_t weights_size = kernel.whole() ? 0 : walk.kernel_rows() * row_size;
  const int64_t targets_size = direct_targets ? 0 : 2 * kWidestTile * lanes;
  const int64_t member_bytes = walk.member_bytes() + Workspace::bytes<A>(weights_size) +
                               Workspace::bytes<A>(targets_size) + Workspace::bytes<Own>(1);
  const int64_t shared_bytes = walk.bytes() + kernel.bytes();
  const int64_t members = members_for(*call.team, member_bytes, shared_bytes);
  Workspace workspace(shared_bytes + members * member_bytes);
  if (!workspace.ok()) return kOutOfMemory;
  walk.prepare(workspace, [](int64_t taps, int64_t spacing, int64_t width, int64_t rows) {
    return rows == 2 ? DepthwiseTiles<A>::gather_pair(taps, spacing, width)
                     : DepthwiseTiles<A>::gather(taps, spacing, width);
  });
  const A* whole_weights = kernel.prepare(workspace, static_cast<const T*>(call.operand));
  Own* own = workspace.take<Own>(members);
  for (int64_t i = 0; i < members; ++i) {
    own[i].walk = walk.member(workspace);
    own[i].weights = workspace.take<A>(weights_size);
    own[i].targets = workspace.take<A>(targets_size);
    std::memset(own[i].weights, 0, sizeof(A) * weights_size);
  }

  const int64_t units = walk.units();
  const int64_t pieces = pieces_for(depthwise_work<T>(g), units);
  share(*call.team, pieces, members, [&](int64_t piece, int64_t member) {
    const Own& mine = own[member];
    const auto stage_weights = [&](const Stretch& s) {
      if (kernel.whole()) return;
      const T* first = static_cast<const T*>(call.operand) + s.phase->tap_first * g.features;
      for (int64_t r = 0; r < walk.kernel_rows(); ++r) {
        const T* from = first + r * w.kernel * g.features + s.feature;
        for (int64_t u = 0; u < s.phase->taps; ++u) {
          copy_elements(from + u * s.phase->tap_step * g.features, s.features,
                        mine.weights + r * row_size + u * lanes);
        }
      }
    };
    const auto compute = [&](const Stretch& s, Tile tile, const TileSources<A>& sources,
                             int64_t first, int64_t width) JAXCONV_LAMBDA {
      const Phase& p = *s.phase;
      const int64_t pixel = s.row * walk.row_length() + p.first + p.step * first;
      T* target = static_cast<T*>(call.result) + pixel * target_channels + s.feature / fold;
      const int64_t target_step = p.step * target_channels;
      const int64_t lower = walk.row_step() * walk.row_length() * target_channels;
      GatherTile<A> t{sources, s.ahead, mine.weights, {s.kernel_row[0], s.kernel_row[1]}, s.upper,
                      s.both, lanes, mine.targets, lanes, kWidestTile * lanes, streams};
      if (kernel.whole()) {
        t.weights = whole_weights + p.tap_first * kernel.step() + s.feature;
        t.tap_step = p.tap_step * kernel.step();
      }
      if constexpr (std::is_same_v<T, A>) {
        if (direct_targets) {
          t.targets = target;
          t.target_step = target_step;
          t.lower = lower;
          t.ahead.pixel = walk.rows_ahead() * walk.row_length() * target_channels;
        }
      }
      tile(t);
      if (direct_targets) return;
      for (int64_t q = 0; q < s.target_rows; ++q) {
        for (int64_t j = 0; j < width; ++j) {
          write_folded(mine.targets + q * t.lower + j * lanes, s.features, fold,
                       target + q * lower + j * target_step);
        }
      }
    };
    walk.visit(units * piece / pieces, units * (piece + 1) / pieces,
               static_cast<const T*>(call.source), 0, g.features, row_size, mine.walk,
               stage_weights, compute);
    if (streams) finish_streams();
  });
  return nullptr;
}

// How the filter gradient is cut: features into chunks, and rows into parts whose sums are added at
// the end, in order. All by shape alone.
struct FilterCut {
  FeatureCut features;
  int64_t lanes;  // of a chunk's sums, from one tap to the next
  int64_t parts;
  int64_t at_once;  // chunks whose sums fit the workspace together
};

template <class A>
JAXCONV_INLINE FilterCut cut_filter(const Geometry& g, int64_t unit, int64_t units,
                                    int64_t pieces) {
  const int64_t tap_bytes = g.taps() * static_cast<int64_t>(sizeof(A));
  const int64_t budget = kWorkspaceBytes / 2;
  // The sums of a chunk are read and written once a tile: keep them in half of the L2 cache.
  int64_t widest = g.features;
  while (widest > 2 * unit && tap_bytes * widest > (256 << 10)) widest = ceil_div(widest, 2);
  const FeatureCut features(g.features, widest, unit, kLanes<A>);
  FilterCut cut{features, unaliased<A>(features.lanes), 1, 1};
  const int64_t chunks = cut.features.count, bytes = tap_bytes * cut.lanes;
  const int64_t wanted = ceil_div(smaller(pieces, 16), chunks);
  cut.parts = clamp(budget / (bytes * chunks), 1, smaller(wanted, units));
  cut.at_once = clamp(budget / (bytes * cut.parts), 1, chunks);
  return cut;
}

template <class T>
const char* depthwise_filter_grad(const Call& call) {
  using A = typename Accumulator<T>::type;
  using Tile = void (*)(const FilterTile<A>&);
  using Walk = DepthwiseWalk<T, Tile>;
  constexpr int N = kLanes<A>;
  const Geometry& g = call.geometry;
  const bool direct = std::is_same_v<T, A> && g.features >= N;
  Walk walk(g, call.op, g.features / g.channels, false);
  const int64_t units = walk.units();
  const FilterCut cut = cut_filter<A>(g, walk.unit(), units, pieces_for(depthwise_work<T>(g), 64));
  const int64_t lanes = cut.lanes, sums_size = g.taps() * lanes;

  struct Own {
    typename Walk::Member walk;
    A* cotangents;
  };
  const int64_t staged_lanes = walk.lanes();
  const int64_t cotangents_size = direct ? 0 : kWidestTile * staged_lanes;
  const int64_t member_bytes = walk.member_bytes() + Workspace::bytes<A>(cotangents_size) +
                               Workspace::bytes<Own>(1);
  const int64_t shared_bytes =
      walk.bytes() + Workspace::bytes<A>(cut.at_once * cut.parts * sums_size);
  const int64_t members = members_for(*call.team, member_bytes, shared_bytes);
  Workspace workspace(shared_bytes + members * member_bytes);
  if (!workspace.ok()) return kOutOfMemory;
  walk.prepare(workspace, [](int64_t taps, int64_t spacing, int64_t width, int64_t) {
    return DepthwiseTiles<A>::filter(taps, spacing, width);
  });
  Own* own = workspace.take<Own>(members);
  for (int64_t i = 0; i < members; ++i) {
    own[i].walk = walk.member(workspace);
    own[i].cotangents = workspace.take<A>(cotangents_size);
    std::memset(own[i].cotangents, 0, sizeof(A) * cotangents_size);
  }
  A* all_sums = workspace.take<A>(cut.at_once * cut.parts * sums_size);

  for (int64_t first = 0; first < cut.features.count; first += cut.at_once) {
    const int64_t chunks = smaller(cut.at_once, cut.features.count - first);
    share(*call.team, chunks * cut.parts, members, [&](int64_t piece, int64_t member) {
      const Own& mine = own[member];
      const int64_t part = piece % cut.parts, chunk = first + piece / cut.parts;
      const int64_t begin = cut.features.begin(chunk);
      A* sums = all_sums + piece * sums_size;
      std::memset(sums, 0, sizeof(A) * sums_size);
      const auto compute = [&](const Stretch& s, Tile tile, const TileSources<A>& sources,
                               int64_t target, int64_t width) JAXCONV_LAMBDA {
        const Phase& p = *s.phase;
        const int64_t pixel = s.row * walk.row_length() + p.first + p.step * target;
        const T* from = static_cast<const T*>(call.operand) + pixel * g.features + s.feature;
        const int64_t step = p.step * g.features;
        FilterTile<A> t{sources,
                        s.ahead,
                        mine.cotangents,
                        staged_lanes,
                        sums + p.tap_first * lanes + (s.feature - begin),
                        s.kernel_row[0],
                        p.tap_step * lanes};
        if constexpr (std::is_same_v<T, A>) {
          if (direct) {
            t.cotangents = from;
            t.cotangent_step = step;
            t.ahead.pixel = walk.rows_ahead() * walk.row_length() * g.features;
          }
        }
        for (int64_t j = 0; !direct && j < width; ++j) {
          copy_elements(from + j * step, s.features, mine.cotangents + j * staged_lanes);
        }
        tile(t);
      };
      walk.visit(units * part / cut.parts, units * (part + 1) / cut.parts,
                 static_cast<const T*>(call.source), begin, cut.features.end(chunk),
                 g.axis[2].kernel * lanes,
                 mine.walk, [](const Stretch&) {}, compute);
    });
    const int64_t sweep = g.taps() * lanes * cut.parts * chunks / N;
    const int64_t pieces = pieces_for(sweep, g.taps());
    share(*call.team, pieces, members, [&](int64_t piece, int64_t) {
      for (int64_t t = g.taps() * piece / pieces; t < g.taps() * (piece + 1) / pieces; ++t) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
          const int64_t begin = cut.features.begin(first + chunk);
          const int64_t features = cut.features.end(first + chunk) - begin;
          const A* sums = all_sums + chunk * cut.parts * sums_size + t * lanes;
          T* result = static_cast<T*>(call.result) + t * g.features + begin;
          for_each_vector<N>(larger(features, N), [&](int64_t feature, int64_t ordinal) {
            Vec<A, N> total = load<A, N>(sums + ordinal * N);
            for (int64_t part = 1; part < cut.parts; ++part) {
              total += load<A, N>(sums + part * sums_size + ordinal * N);
            }
            if (features >= N) {
              store<A, N>(result + feature, total);
            } else {
              store<A, N, true>(result, total, features);
            }
          });
        }
      }
    });
  }
  return nullptr;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
