// Depthwise conv and input_grad, where every group has one channel.
//
// There is no padded copy of the sources and no im2col: tiles (tile.h) read sources through tables
// of pointers (stretch.h), and threads share the rows of targets (run.h). With a multiplier, an
// input gradient is computed as one value per feature, and those of a channel are added afterwards.

#pragma once

#include <cstdint>
#include <cstring>

#include "isa/depthwise/folding.h"
#include "isa/depthwise/run.h"
#include "isa/depthwise/weights.h"
#include "isa/result_writer.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
struct DepthwiseGatherPlan {
  using A = typename Accumulator<T>::type;

  const int64_t multiplier;
  const int64_t fold;  // features per target channel
  const int64_t target_channels;
  const bool whole_vectors;   // of accumulators, in the arrays themselves
  const bool direct_targets;  // tiles write the result itself
  const DepthwisePlan<T> schedule;
  const Weights<T> weights;
  const bool streams;

  explicit DepthwiseGatherPlan(const Call& call)
      : multiplier(call.geometry.features / call.geometry.channels),
        fold(call.op == Operator::kInputGrad ? multiplier : 1),
        target_channels(call.geometry.features / fold),
        whole_vectors(std::is_same_v<T, A> && call.geometry.features >= kLanes<A>),
        direct_targets(whole_vectors && fold == 1 && !ResultWriter<T>::needed(call)),
        schedule(call.geometry, call.op, multiplier / fold, has_pairs(call.geometry),
                 ResultWriter<T>::needed(call)),
        weights(call.geometry, schedule, whole_vectors),
        streams(kStreams && whole_vectors && fold == 1 && whole_lines(call.result) &&
                schedule.streams()) {}

  // Accumulators of a tile's targets that are not written directly.
  int64_t targets_size() const {
    return direct_targets ? 0 : 2 * kMaxTileWidth * schedule.stretches.lanes;
  }

 private:
  static bool has_pairs(const Geometry& g) {
    const Axis &h = g.axis[1], &w = g.axis[2];
    return h.stride == 1 && h.kernel > 1 && w.stride == 1 &&
           DepthwiseTiles<A>::gather_pair(w.kernel, 1, 1) != nullptr;
  }

  bool whole_lines(const void* result) const {
    return target_channels % kLanes<A> == 0 &&
           reinterpret_cast<uintptr_t>(result) % kVectorBytes == 0;
  }
};

template <class T>
class DepthwiseGatherRun {
  using A = typename Accumulator<T>::type;
  using Tile = void (*)(const GatherTile<A>&);
  using Run = DepthwiseRun<T, Tile>;

  // What one thread has.
  struct Member {
    typename Run::Member run;
    A *weights, *targets;
  };

 public:
  static int64_t bytes(const Call& call, const DepthwiseGatherPlan<T>& plan) {
    return Run::bytes(plan.schedule) + plan.weights.bytes() + ResultWriter<T>::bytes(call);
  }
  static int64_t member_bytes(const DepthwiseGatherPlan<T>& plan) {
    return Run::member_bytes(plan.schedule) + Workspace::bytes<A>(plan.weights.chunk_size()) +
           Workspace::bytes<A>(plan.targets_size()) + Workspace::bytes<Member>(1);
  }

  DepthwiseGatherRun(const Call& call, const DepthwiseGatherPlan<T>& plan, Workspace& workspace,
                     int64_t members)
      : plan_(plan),
        source_(static_cast<const T*>(call.source)),
        kernel_(static_cast<const T*>(call.operand)),
        result_(static_cast<T*>(call.result)),
        row_length_(plan.schedule.shape.targets[2]),
        run_(plan.schedule, workspace, choose_tile),
        weights_(plan.weights.pack(workspace, kernel_)),
        writer_(call, workspace),
        members_(workspace.take<Member>(members)) {
    const int64_t weights_size = plan.weights.chunk_size();
    for (int64_t i = 0; i < members; ++i) {
      members_[i].run = run_.member(workspace);
      members_[i].weights = workspace.take<A>(weights_size);
      members_[i].targets = workspace.take<A>(plan.targets_size());
      std::memset(members_[i].weights, 0, sizeof(A) * weights_size);
    }
  }

  // Computes the targets of units [begin, end) on one thread.
  void compute(int64_t begin, int64_t end, int64_t member) const {
    const Member& m = members_[member];
    run_.visit(
        {begin, end, source_, 0, plan_.schedule.shape.features, plan_.weights.row_size()}, m.run,
        [&](const Stretch& s) {
          if (!plan_.weights.whole()) plan_.weights.pack_chunk(kernel_, s, m.weights);
        },
        [&](const Stretch& s, Tile tile, const TileSources<A>& sources, int64_t first,
            int64_t width) JAXCONV_LAMBDA { compute_tile(m, s, tile, sources, first, width); });
    if (plan_.streams) finish_streams();
  }

 private:
  static Tile choose_tile(int64_t taps, int64_t spacing, int64_t width, int64_t rows) {
    return rows == 2 ? DepthwiseTiles<A>::gather_pair(taps, spacing, width)
                     : DepthwiseTiles<A>::gather(taps, spacing, width);
  }

  // With the bias of the stretch's features.
  TileEpilogue<A> epilogue_of(const Stretch& s) const {
    TileEpilogue<A> epilogue = writer_.in_tiles();
    if (epilogue.bias != nullptr) epilogue.bias += s.feature;
    return epilogue;
  }

  JAXCONV_INLINE void compute_tile(const Member& m, const Stretch& s, Tile tile,
                                   const TileSources<A>& sources, int64_t first,
                                   int64_t width) const {
    const Phase& p = *s.phase;
    const Weights<T>& packed = plan_.weights;
    const int64_t channels = plan_.target_channels, lanes = plan_.schedule.stretches.lanes;
    const int64_t pixel = s.row * row_length_ + p.first + p.step * first;
    T* target = result_ + pixel * channels + s.feature / plan_.fold;
    const int64_t target_step = p.step * channels;
    const int64_t lower = plan_.schedule.rows.step * row_length_ * channels;
    GatherTile<A> t{sources,
                    s.prefetch,
                    m.weights,
                    {s.kernel_row[0], s.kernel_row[1]},
                    s.upper,
                    s.both,
                    lanes,
                    m.targets,
                    lanes,
                    kMaxTileWidth * lanes,
                    plan_.streams && plan_.direct_targets,
                    epilogue_of(s)};
    if (packed.whole()) {
      t.weights = weights_ + p.tap_first * packed.tap_step() + s.feature;
      t.tap_step = p.tap_step * packed.tap_step();
    }
    if constexpr (std::is_same_v<T, A>) {
      if (plan_.direct_targets) {
        t.targets = target;
        t.target_step = target_step;
        t.lower = lower;
        t.prefetch.pixel = plan_.schedule.rows.rows_ahead() * row_length_ * channels;
      }
    }
    tile(t);
    if (plan_.direct_targets) return;
    for (int64_t q = 0; q < s.target_rows; ++q) {
      if (writer_.for_tiles() != nullptr) {
        writer_.write({m.targets + q * t.lower, lanes, width, s.feature, s.features},
                      target + q * lower, target_step, plan_.streams);
        continue;
      }
      for (int64_t j = 0; j < width; ++j) {
        write_folded(m.targets + q * t.lower + j * lanes, s.features, plan_.fold,
                     target + q * lower + j * target_step);
      }
    }
  }

  const DepthwiseGatherPlan<T>& plan_;
  const T *const source_, *const kernel_;
  T* const result_;
  const int64_t row_length_;
  const Run run_;
  const A* const weights_;  // the whole kernel, or null
  const ResultWriter<T> writer_;
  Member* const members_;
};

template <class T>
const char* depthwise_gather(const Call& call) {
  const DepthwiseGatherPlan<T> plan(call);
  const int64_t shared_bytes = DepthwiseGatherRun<T>::bytes(call, plan);
  const int64_t member_bytes = DepthwiseGatherRun<T>::member_bytes(plan);
  const int64_t members = members_for(*call.team, member_bytes, shared_bytes);
  Workspace workspace(shared_bytes + members * member_bytes);
  if (!workspace.ok()) return kOutOfMemory;
  const DepthwiseGatherRun<T> run(call, plan, workspace, members);
  const int64_t units = plan.schedule.rows.units;
  const int64_t pieces = pieces_for(depthwise_work<T>(call.geometry), units);
  share(*call.team, pieces, members, [&](int64_t piece, int64_t member) {
    run.compute(units * piece / pieces, units * (piece + 1) / pieces, member);
  });
  return nullptr;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
