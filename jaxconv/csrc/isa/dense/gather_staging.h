// The pixel tiles of a gather: for each pixel a pointer to its sources and one to its target.
//
// Sources are read in place where possible. Those of a 16-bit type, and those that lie partly in
// the padding, are staged first: copied as accumulators, with zeros for the padding.

#pragma once

#include <cstdint>
#include <cstring>

#include "isa/dense/gather_plan.h"
#include "isa/dense/pixels.h"
#include "isa/dense/tile_sizes.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// What a tile prefetches of a later panel: from this byte on, so much for each block of products.
struct PanelPart {
  int64_t offset, block_bytes;
};

// A region, and what its tiles have in common.
struct GatherRegion {
  PixelGrid grid;
  PanelPart prefetch;
  int64_t panels_ahead;  // of the panel that is prefetched
  bool staged;
  int64_t runs, run_length;
};

template <class T>
class PixelTileBuilder {
  using A = typename Accumulator<T>::type;
  using Tile = PixelTile<A>;
  using Memory = ChunkMemory<A>;

 public:
  explicit PixelTileBuilder(const GatherPlan<T>& plan)
      : plan_(plan), source_(static_cast<const T*>(plan.call.source)) {}

  // Builds tile number `index` of a region.
  void build(const GatherRegion& region, const Memory& memory, int64_t index, Tile& tile) const {
    const int64_t full = plan_.tiles.pixels, first = index * full;
    tile.pixels = smaller(full, region.grid.pixels() - first);
    tile.size = tile_size_for(full, tile.pixels);
    T* result = static_cast<T*>(plan_.call.result);
    Pixel pixels[kMaxTilePixels];
    for_each_pixel(region.grid, first, tile.pixels,
                   [&](int64_t r, const Pixel& pixel) JAXCONV_LAMBDA {
                     pixels[r] = pixel;
                     tile.targets[r] = result + pixel.target;
                   });
    if constexpr (!GatherPlan<T>::kWidens) {
      if (!region.staged) return read_in_place(region, memory, pixels, tile);
    }
    stage(region, memory, pixels, tile);
  }

 private:
  // Pixels that the tile computes. If fewer exist, the first one stands in for the others.
  int64_t computed_pixels(const Tile& tile) const {
    return tile_pixels(static_cast<int>(plan_.tiles.pixels), tile.size);
  }

  void read_in_place(const GatherRegion& region, const Memory& memory, const Pixel* pixels,
                     Tile& tile) const {
    tile.offset = memory.offset;
    tile.panel_row = memory.panel_row;
    tile.runs = region.runs;
    for (int64_t r = 0; r < computed_pixels(tile); ++r) {
      tile.sources[r] = source_ + pixels[r < tile.pixels ? r : 0].source;
    }
  }

  // Runs in which no pixel has a source are left out.
  void stage(const GatherRegion& region, const Memory& memory, const Pixel* pixels,
             Tile& tile) const {
    const int64_t room = plan_.max_runs * plan_.run_sources;
    for (int64_t r = 0; r < computed_pixels(tile); ++r) {
      tile.sources[r] = tile.staged + (r < tile.pixels ? r : 0) * room;
    }
    tile.offset = tile.own_offset;
    tile.panel_row = tile.own_panel_row;
    tile.runs = 0;
    for (int64_t e = 0; e < region.runs; ++e) {
      const Run& run = memory.runs[e];
      const int64_t at = tile.runs * plan_.run_sources;
      bool any = false;
      for (int64_t r = 0; r < tile.pixels; ++r) {
        any = any || reaches(pixels[r], run, plan_.merged);
      }
      if (!any) continue;
      for (int64_t r = 0; r < tile.pixels; ++r) {
        stage_run(pixels[r], run, region.grid.axis[2].taps, tile.staged + r * room + at);
      }
      tile.own_offset[tile.runs] = at;
      tile.own_panel_row[tile.runs++] = memory.panel_row[e];
    }
  }

  // Copies the sources of a pixel in one run, with zeros for those in the padding.
  void stage_run(const Pixel& pixel, const Run& run, int64_t row_taps, A* to) const {
    const int64_t channels = plan_.group_sources;
    const int64_t length = plan_.merged ? row_taps * channels : plan_.run_sources;
    if (!reaches(pixel, run, plan_.merged)) {
      std::memset(to, 0, sizeof(A) * length);
    } else if (plan_.merged) {
      copy_merged(source_ + (pixel.source + run.offset), pixel.taps[2], row_taps, channels, to);
    } else {
      copy_elements(source_ + (pixel.source + run.offset), length, to);
    }
  }

  const GatherPlan<T>& plan_;
  const T* const source_;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
