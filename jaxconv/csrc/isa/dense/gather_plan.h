// Grouped and dense conv and input_grad, as implicit matrix products: rows are target pixels,
// columns are features of a group, and the reduction runs over taps and source channels.
//
// A gather has three steps: the plan in this file decides all sizes from the call, the packing
// (gather_packing.h) copies weights into panels, and the run (gather_run.h) computes tiles of
// target pixels times panels. Sources are read in place, or staged (gather_staging.h) if they have
// 16 bits or lie partly in the padding.

#pragma once

#include <cstdint>
#include <type_traits>

#include "call.h"
#include "geometry.h"
#include "isa/dense/pixels.h"
#include "isa/dense/region_plan.h"
#include "isa/dense/tile.h"
#include "isa/result_writer.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Runs of the tiles for few features must not span several taps: weights are packed tap by tap.
constexpr int64_t kMinChannelsForFewFeatures = kMinUnmergedChannels;
// Below this, adding their partial sums costs as much as the faster multiply-adds save.
constexpr int64_t kMinProductsForFewFeatures = 128;

// One tile of pixels as all panels read it: independent of the features.
template <class A>
struct PixelTile {
  const A** sources;
  void** targets;
  const int64_t *offset, *panel_row;
  int64_t runs, pixels;
  int size;                             // see tile_sizes.h
  int64_t *own_offset, *own_panel_row;  // of a staged tile, which may have fewer runs than others
  A* staged;
};

// What each thread computes a chunk of tiles with.
template <class A>
struct ChunkMemory {
  Run* runs;
  int64_t *offset, *panel_row;
  PixelTile<A>* tiles;
};

// Everything that is decided from the call. Groups narrower than a vector are combined: `groups`
// then counts combinations, each of as many groups of the call as one vector holds.
template <class T>
struct GatherPlan {
  using A = typename Accumulator<T>::type;

  // The 16-bit types are staged: the tiles read accumulators.
  static constexpr bool kWidens = !std::is_same_v<T, A>;
  static constexpr int64_t kMaxPackedBytes = 5 * (kWorkspaceBytes / 8);
  static constexpr int64_t kMaxChunkBytes = 128 << 10;  // kept in the L2 cache
  static constexpr int64_t kMaxChunkTiles = 16;
  static constexpr int64_t kMinChunks = 32;

  explicit GatherPlan(const Call& c) : call(c), geometry(c.geometry) {}

  const Call& call;
  const Geometry& geometry;

  const bool input_grad = call.op == Operator::kInputGrad;
  const int64_t source_channels = input_grad ? geometry.features : geometry.channels;
  const int64_t target_channels = input_grad ? geometry.channels : geometry.features;
  const int64_t combined_groups = groups_per_vector<A>(
      geometry.groups, source_channels / geometry.groups, target_channels / geometry.groups);
  const int64_t groups = geometry.groups / combined_groups;
  const int64_t group_sources = source_channels / geometry.groups;  // that a target reads per tap
  const int64_t group_targets = target_channels / groups;           // of a group or combination

  const bool few_features = group_targets <= kMaxFewFeatures &&
                            group_sources >= kMinChannelsForFewFeatures &&
                            geometry.taps() * group_sources >= kMinProductsForFewFeatures;
  const GatherTiles<A> tiles = combined_groups > 1 ? DenseTiles<A>::narrow_groups(group_sources)
                               : few_features      ? DenseTiles<A>::few_features(group_targets)
                                                   : DenseTiles<A>::gather(group_targets);

  const RegionPlan regions{geometry, call.op, tiles.pixels, group_sources};
  const bool merged = !input_grad && merges_taps(geometry);
  const int64_t merged_taps = merged ? geometry.axis[2].kernel : 1;
  const int64_t max_runs = geometry.taps() / merged_taps;
  const int64_t run_sources = source_channels * merged_taps;  // of all groups

  // Weights are packed for as many panels at a time as fit the workspace: with all taps, or if one
  // panel would then be too large, with the taps of one combination of phases at a time.
  const int64_t panel_width = tiles.vectors * tiles.lanes;
  const int64_t group_panels = ceil_div(group_targets, panel_width);
  const int64_t panels = groups * group_panels;
  const bool packs_all_taps =
      geometry.taps() * tap_bytes() <= kMaxPackedBytes || regions.combinations() == 1;
  const int64_t packed_taps = packs_all_taps ? geometry.taps() : combination_taps();
  const int64_t panel_size = packed_taps * group_sources * panel_width;
  const int64_t panels_at_once =
      call.panels != nullptr ? panels : clamp(kMaxPackedBytes / panel_bytes(), 1, panels);

  const int64_t chunk_tiles = clamp(kMaxChunkBytes / chunk_tile_bytes(), 1,
                                    clamp(all_tiles() / kMinChunks, 1, kMaxChunkTiles));

  int64_t panel_bytes() const { return panel_size * static_cast<int64_t>(sizeof(A)); }

  // Features of a panel. The last panel of a group has as few vectors as its features need.
  int64_t panel_lanes(int64_t panel) const {
    return smaller(panel_width, group_targets - panel % group_panels * panel_width);
  }
  int64_t panel_vectors(int64_t panel) const { return ceil_div(panel_lanes(panel), tiles.lanes); }
  int64_t panel_group(int64_t panel) const { return panel / group_panels; }
  int64_t first_feature(int64_t panel) const {
    return panel / group_panels * group_targets + panel % group_panels * panel_width;
  }

  // Anything may have to be staged if an axis with a border is not split.
  int64_t staged_size() const {
    return kWidens || regions.bordered() ? max_runs * tiles.pixels * run_sources : 0;
  }

  // Accumulators of the panels that the call packs.
  int64_t packed_size() const {
    return call.panels != nullptr ? 0 : panels_at_once * panel_size;
  }

  int64_t tile_bytes() const {
    return Workspace::bytes<PixelTile<A>>(1) + Workspace::bytes<const A*>(tiles.pixels) +
           Workspace::bytes<void*>(tiles.pixels) + Workspace::bytes<int64_t>(max_runs) * 2 +
           Workspace::bytes<A>(staged_size());
  }
  int64_t member_bytes() const {
    return Workspace::bytes<ChunkMemory<A>>(1) + Workspace::bytes<Run>(max_runs) +
           Workspace::bytes<int64_t>(max_runs) * 2 + chunk_tiles * tile_bytes();
  }
  int64_t shared_bytes() const {
    return regions.bytes() + Workspace::bytes<int64_t>(regions.regions() + 1) * 2 +
           Workspace::bytes<int64_t>(geometry.taps()) * 2 + ResultWriter<T>::bytes(call) +
           Workspace::bytes<A>(packed_size());
  }

 private:
  int64_t tap_bytes() const {
    return group_sources * panel_width * static_cast<int64_t>(sizeof(A));
  }
  // The most taps that any combination of phases has.
  int64_t combination_taps() const {
    int64_t taps = 1;
    for (const Axis& axis : geometry.axis) taps *= most_taps(axis, call.op);
    return taps;
  }
  int64_t all_tiles() const {
    const int64_t pixels = geometry.batch * (input_grad ? geometry.inputs() : geometry.outputs());
    return ceil_div(pixels, tiles.pixels);
  }
  // What one tile of a chunk takes of the L2 cache.
  int64_t chunk_tile_bytes() const {
    const int64_t read = tiles.pixels * group_sources * static_cast<int64_t>(sizeof(T));
    return larger(tile_bytes(), read);
  }
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
