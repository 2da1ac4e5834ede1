// The run step of a gather: chunks of pixel tiles times panels of weights, shared among threads.

#pragma once

#include <cstdint>

#include "isa/dense/chunks.h"
#include "isa/dense/gather_packing.h"
#include "isa/dense/gather_plan.h"
#include "isa/dense/gather_staging.h"
#include "isa/dense/regions.h"
#include "isa/result_writer.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
class GatherRun {
  using A = typename Accumulator<T>::type;
  using Tile = PixelTile<A>;
  using Memory = ChunkMemory<A>;

 public:
  GatherRun(const GatherPlan<T>& plan, int64_t members, Workspace& workspace)
      : plan_(plan),
        packing_(plan),
        builder_(plan),
        members_(members),
        regions_(plan.regions, workspace),
        chunks_(plan.regions.regions(), workspace),
        taps_(plan.geometry.taps(), workspace),
        writer_(plan.call, workspace),
        packed_(workspace.take<A>(plan.packed_size())),
        panels_(plan.call.panels != nullptr ? static_cast<const A*>(plan.call.panels) : packed_),
        memory_(workspace.take<Memory>(members)) {
    for (int64_t i = 0; i < members; ++i) take_memory(memory_[i], workspace);
  }

  void run() {
    if (plan_.packs_all_taps) {
      taps_.list_all(plan_.geometry.taps());
      return run_selected();
    }
    for (int64_t i = 0; i < plan_.regions.combinations(); ++i) {
      regions_.select(i);
      taps_.list_combination(plan_.regions, plan_.geometry.axis, i, memory_[0].runs);
      run_selected();
    }
  }

 private:
  static constexpr int64_t kTileEndCost = 40;  // storing a tile costs as much as so many products
  static constexpr int64_t kMaxSplitBytes = 512 << 10;  // half of the L2 cache
  static constexpr int64_t kMinUnits = 64;
  static constexpr int64_t kMinPrefetchingChunks = 4;
  static constexpr int64_t kCacheLineBytes = 64;

  void take_memory(Memory& memory, Workspace& workspace) const {
    memory.runs = workspace.take<Run>(plan_.max_runs);
    memory.offset = workspace.take<int64_t>(plan_.max_runs);
    memory.panel_row = workspace.take<int64_t>(plan_.max_runs);
    memory.tiles = workspace.take<Tile>(plan_.chunk_tiles);
    for (int64_t j = 0; j < plan_.chunk_tiles; ++j) {
      Tile& tile = memory.tiles[j];
      tile.sources = workspace.take<const A*>(plan_.tiles.pixels);
      tile.targets = workspace.take<void*>(plan_.tiles.pixels);
      tile.own_offset = workspace.take<int64_t>(plan_.max_runs);
      tile.own_panel_row = workspace.take<int64_t>(plan_.max_runs);
      tile.staged = workspace.take<A>(plan_.staged_size());
    }
  }

  PixelGrid grid(int64_t region) const {
    PixelGrid grid;
    grid.batch = plan_.geometry.batch;
    grid.channels = plan_.source_channels;
    grid.target_channels = plan_.target_channels;
    regions_.axes(region, grid.axis);
    for (int a = 0; a < 3; ++a) {
      const Axis& axis = plan_.geometry.axis[a];
      grid.targets[a] = plan_.input_grad ? axis.in : axis.out;
    }
    return grid;
  }

  void number_chunks() {
    chunks_.clear();
    for (int64_t i = 0; i < regions_.count(); ++i) {
      const PixelGrid grid = this->grid(i);
      const int64_t tiles = ceil_div(grid.pixels(), plan_.tiles.pixels);
      chunks_.add_region(ceil_div(tiles, plan_.chunk_tiles),
                         grid.taps() * plan_.group_sources + kTileEndCost);
    }
  }

  // Computes the selected regions: packs some panels, computes them, packs the next.
  void run_selected() {
    number_chunks();
    for (int64_t first = 0; first < plan_.panels; first += plan_.panels_at_once) {
      const int64_t panels = smaller(plan_.panels_at_once, plan_.panels - first);
      if (panels_ == packed_) packing_.pack(first, panels, taps_, packed_, members_);
      compute_panels(first, panels);
    }
  }

  // All chunks go through one split of the panels before the next split, so that its panels stay in
  // the L2 cache. With few chunks there are more splits, for threads to share the panels too.
  void compute_panels(int64_t first, int64_t panels) const {
    const int64_t chunks = chunks_.count(), cost = chunks_.cost();
    const int64_t splits = clamp(ceil_div(panels * plan_.panel_bytes(), kMaxSplitBytes),
                                 ceil_div(kMinUnits, chunks), panels);
    const int64_t vectors = ceil_div(panels, splits) * plan_.tiles.vectors * plan_.tiles.pixels;
    const int64_t pieces = pieces_for(cost * plan_.chunk_tiles * vectors * splits, chunks * splits);
    // A unit of work is one chunk times one split of the panels. Pieces are of similar cost.
    const auto unit_at = [&](int64_t piece) {
      const int64_t at = cost * splits * piece / pieces;
      return piece == pieces ? chunks * splits : at / cost * chunks + chunks_.chunk_at(at % cost);
    };
    share(*plan_.call.team, pieces, members_, [&](int64_t piece, int64_t member) {
      for (int64_t u = unit_at(piece); u < unit_at(piece + 1); ++u) {
        const int64_t split = u / chunks;
        compute_chunk(u % chunks, first, panels * split / splits, panels * (split + 1) / splits,
                      panels, memory_[member]);
      }
    });
  }

  // Computes a chunk for panels [begin, end) of `panels`, of which `first_panel` is the first.
  void compute_chunk(int64_t chunk, int64_t first_panel, int64_t begin, int64_t end,
                     int64_t panels, const Memory& memory) const {
    const int64_t index = chunks_.region_of(chunk);
    GatherRegion region;
    region.grid = grid(index);
    const int64_t first = (chunk - chunks_.first_of(index)) * plan_.chunk_tiles;
    const int64_t tiles = ceil_div(region.grid.pixels(), plan_.tiles.pixels);
    const int64_t count = smaller(plan_.chunk_tiles, tiles - first);
    region.runs = list_runs(region.grid, plan_.geometry.axis, plan_.merged, memory.runs);
    if (region.runs == 0) {
      return write_empty_sums(region.grid, first, count, first_panel + begin, first_panel + end);
    }
    region.run_length = plan_.group_sources * (plan_.merged ? region.grid.axis[2].taps : 1);
    region.staged = GatherPlan<T>::kWidens || !region.grid.all_taps_have_sources();
    for (int64_t e = 0; e < region.runs; ++e) {
      memory.offset[e] = memory.runs[e].offset;
      memory.panel_row[e] = taps_.row[memory.runs[e].first] * plan_.group_sources;
    }
    for (int64_t i = 0; i < count; ++i) builder_.build(region, memory, first + i, memory.tiles[i]);
    // Narrow groups share the cache lines of their sources: going through all panels one tile at a
    // time reads those lines once.
    const bool one_by_one = plan_.group_sources * static_cast<int64_t>(sizeof(T)) < kCacheLineBytes;
    const int64_t tiles_at_once = one_by_one ? 1 : count;
    region.prefetch = part_of_panel(chunk, panels - end);
    region.panels_ahead = smaller(end - begin, panels - end);
    for (int64_t i = 0; i < count; i += tiles_at_once) {
      for (int64_t p = begin; p < end; ++p) {
        compute_tiles(region, first_panel + p, panels_ + p * plan_.panel_size, memory.tiles + i,
                      tiles_at_once);
      }
    }
  }

  // While chunks go through one split of the panels, each prefetches a part of the next split, for
  // which the next chunk would otherwise wait. 1x1 7x7 1024>1024 with a packed kernel takes 0.70 of
  // the time of an unpacked call instead of 0.90 (see docs/design/measurements.md). A few chunks
  // alone would prefetch more than there is time for.
  PanelPart part_of_panel(int64_t chunk, int64_t panels_after) const {
    const int64_t chunks = chunks_.count(), bytes = plan_.panel_bytes();
    if (chunks < kMinPrefetchingChunks || panels_after == 0) return {0, 0};
    const int64_t products = plan_.geometry.taps() * plan_.group_sources;
    return {bytes * chunk / chunks,
            (bytes * kPrefetchBlock / (chunks * products)) & -kCacheLineBytes};
  }

  void compute_tiles(const GatherRegion& region, int64_t panel, const A* packed, const Tile* tile,
                     int64_t count) const {
    GatherTileArgs<A> args;
    args.length = region.run_length;
    args.channel = plan_.panel_group(panel) * (plan_.source_channels / plan_.groups);
    args.panel = packed;
    args.prefetch = reinterpret_cast<const char*>(packed + region.panels_ahead * plan_.panel_size) +
                    region.prefetch.offset;
    args.prefetch_bytes = region.prefetch.block_bytes;
    args.feature = plan_.first_feature(panel);
    args.lanes = plan_.panel_lanes(panel);
    args.epilogue = writer_.in_tiles();
    args.writer = writer_.for_tiles(plan_.few_features);
    args.write = ResultWriter<T>::write_tile;
    args.direct = ResultWriter<T>::kStoresSums && args.writer == nullptr;
    const int64_t vectors = plan_.panel_vectors(panel);
    for (const Tile* const end = tile + count; tile < end; ++tile) {
      args.sources = tile->sources;
      args.offset = tile->offset;
      args.panel_row = tile->panel_row;
      args.runs = tile->runs;
      args.targets = tile->targets;
      args.pixels = tile->pixels;
      writer_.prefetch(tile->targets, tile->pixels, args.feature, args.lanes);
      plan_.tiles.run[tile->size][vectors - 1](args);
    }
  }

  // Targets that no tap reaches. Running empty tiles for them took a fifth of the time of the input
  // gradient of a 1x1 convolution of stride 2 (see docs/design/measurements.md).
  void write_empty_sums(const PixelGrid& grid, int64_t first, int64_t count, int64_t begin,
                        int64_t end) const {
    const int64_t rows = plan_.tiles.pixels, feature = plan_.first_feature(begin);
    const int64_t features = plan_.first_feature(end) - feature;
    const int64_t pixels = smaller(count * rows, grid.pixels() - first * rows);
    T* result = static_cast<T*>(plan_.call.result) + feature;
    for_each_pixel(grid, first * rows, pixels, [&](int64_t, const Pixel& pixel) JAXCONV_LAMBDA {
      writer_.write_zero_sums(result + pixel.target, feature, features);
    });
  }

  const GatherPlan<T>& plan_;
  const GatherPacking<T> packing_;
  const PixelTileBuilder<T> builder_;
  const int64_t members_;
  Regions regions_;
  Chunks chunks_;
  PackedTaps taps_;
  const ResultWriter<T> writer_;
  A* const packed_;
  const A* const panels_;
  Memory* const memory_;
};

template <class T>
const char* dense_gather(const Call& call) {
  const GatherPlan<T> plan(call);
  const int64_t members = members_for(*call.team, plan.member_bytes(), plan.shared_bytes());
  Workspace workspace(plan.shared_bytes() + members * plan.member_bytes());
  if (!workspace.ok()) return kOutOfMemory;
  GatherRun<T>(plan, members, workspace).run();
  return nullptr;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
