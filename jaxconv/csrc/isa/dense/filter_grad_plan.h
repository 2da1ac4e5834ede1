// The filter gradient of grouped and dense convolutions, as a matrix product whose reduction runs
// over output pixels: rows are (tap, channel) pairs, columns are features.
//
// The result is divided into sections and the pixels into parts; one piece of work is one section
// summed over one part, chunk by chunk. The cotangents of a chunk are packed into panels of
// features (filter_grad_packing.h), the pixels that have sources are listed as segments of output
// rows (filter_grad_segments.h), and tiles of R channels x V vectors of features run through them
// (filter_grad_run.h). Between chunks the sums rest in memory; the sums of all parts are added in
// order at the end. This file decides all sizes, from the shape alone, so that results do not
// depend on the number of threads.

#pragma once

#include <cstdint>
#include <type_traits>

#include "call.h"
#include "geometry.h"
#include "isa/dense/pixels.h"
#include "isa/dense/tile.h"
#include "isa/vec.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// A section of the result: panels of features, runs of taps, and rows (channels) within each run.
struct Section {
  int64_t panel, panels, run, runs, row, rows;
};

// How the work is divided: the size of full sections, and into how many parts the pixels.
struct Division {
  int64_t panels, runs, rows;
  int64_t parts;
  int64_t chunk_pixels;
};

// The adjacent pixels of a chunk that lie in one row of outputs.
struct PixelRow {
  int64_t at[2];         // the index of their sources for tap 0 on all axes but the last
  int64_t source;        // the offset of the first source, which may lie outside the array
  int64_t first, count;  // on the last axis
  int64_t pixel;         // the first, counted from the start of the chunk
};

// What each thread works with.
template <class A>
struct SectionMemory {
  PixelRow* rows;
  Segment<A>* segments;
  A *packed, *copied, *sums;
};

// Everything that is decided from the call.
template <class T>
struct FilterGradPlan {
  using A = typename Accumulator<T>::type;

  static constexpr bool kWidens = !std::is_same_v<T, A>;
  static constexpr int64_t kMaxSumsBytes = 5 * (kWorkspaceBytes / 8);
  static constexpr int64_t kMaxOwnSumsBytes = 320 << 10;  // of one section: kept in the L2 cache
  static constexpr int64_t kMaxChunkBytes = 192 << 10;
  static constexpr int64_t kMinChunkPixels = 32;
  static constexpr int64_t kMaxChunkPixels = 144;       // a panel of them stays in the L1 cache
  static constexpr int64_t kMaxSectionChannels = 4096;  // of a pixel, packed or copied
  static constexpr int64_t kMaxPieces = 32;
  static constexpr int64_t kMaxParts = 16;

  explicit FilterGradPlan(const Call& c) : call(c), geometry(c.geometry) {}

  const Call& call;
  const Geometry& geometry;

  const FilterGradTiles<A> tiles = DenseTiles<A>::filter_grad(geometry.group_out());
  const PixelGrid grid = output_grid(geometry);
  const bool merged = merges_taps(geometry);
  const int64_t merged_taps = merged ? geometry.axis[2].kernel : 1;
  const int64_t run_length = geometry.group_in() * merged_taps;
  const int64_t runs = geometry.taps() / merged_taps;

  const int64_t panel_width = tiles.vectors * tiles.lanes;
  const int64_t group_panels = ceil_div(geometry.group_out(), panel_width);
  const int64_t panels = geometry.groups * group_panels;

  const Division division = divide();
  const int64_t sections = count_sections(division);
  const int64_t section_size = size_of_section(division);
  const int64_t channel_span = span_of(division);  // channels that the panels of a section read

  // Where there are several parts, their sums are kept for all sections; else for one per thread.
  const int64_t shared_sums = division.parts > 1 ? division.parts * sections * section_size : 0;
  const int64_t own_sums = division.parts > 1 ? 0 : section_size;
  const int64_t packed_size = division.chunk_pixels * division.panels * panel_width;
  const int64_t copied_size = kWidens || merged ? division.chunk_pixels * channel_span : 0;

  Section section(int64_t index) const {
    const int64_t row_sections = ceil_div(run_length, division.rows);
    const int64_t run_sections = ceil_div(runs, division.runs);
    Section s;
    s.row = index % row_sections * division.rows;
    s.run = index / row_sections % run_sections * division.runs;
    s.panel = index / row_sections / run_sections * division.panels;
    s.rows = smaller(division.rows, run_length - s.row);
    s.runs = smaller(division.runs, runs - s.run);
    s.panels = smaller(division.panels, panels - s.panel);
    return s;
  }

  int64_t panel_group(int64_t panel) const { return panel / group_panels; }
  int64_t first_feature(int64_t panel) const {
    return panel / group_panels * geometry.group_out() + panel % group_panels * panel_width;
  }
  int64_t panel_lanes(int64_t panel) const {
    return smaller(panel_width, geometry.group_out() - panel % group_panels * panel_width);
  }

  int64_t shared_bytes() const {
    return Workspace::bytes<Run>(runs) + Workspace::bytes<A>(shared_sums);
  }
  int64_t member_bytes() const {
    return Workspace::bytes<SectionMemory<A>>(1) +
           Workspace::bytes<PixelRow>(division.chunk_pixels) +
           Workspace::bytes<Segment<A>>(division.chunk_pixels) + Workspace::bytes<A>(packed_size) +
           Workspace::bytes<A>(copied_size) + Workspace::bytes<A>(own_sums);
  }

 private:
  static PixelGrid output_grid(const Geometry& g) {
    PixelGrid grid{};
    grid.batch = g.batch;
    grid.channels = g.channels;
    for (int a = 0; a < 3; ++a) grid.axis[a] = phase(g.axis[a], Operator::kConv, 0);
    return grid;
  }

  // As many parts as have room for their sums, then smaller sections until there are enough pieces
  // of work and the limits hold.
  Division divide() const {
    const int64_t vector_products = grid.pixels() * runs * run_length * panels * tiles.vectors;
    const int64_t pieces = pieces_for(vector_products, kMaxPieces);
    Division d{panels, runs, run_length, 0, 0};
    d.parts = clamp(kMaxSumsBytes / section_bytes(d), 1, smaller(pieces, kMaxParts));
    while (too_large(d, pieces) && halve(d)) {
    }
    // Where sections do not divide the result evenly, the last ones still take full room.
    d.parts = clamp(kMaxSumsBytes / (count_sections(d) * section_bytes(d)), 1, d.parts);
    const int64_t pixel_bytes =
        (span_of(d) + d.panels * panel_width) * static_cast<int64_t>(sizeof(A));
    d.chunk_pixels = clamp(kMaxChunkBytes / pixel_bytes, kMinChunkPixels, kMaxChunkPixels);
    return d;
  }

  bool too_large(const Division& d, int64_t pieces) const {
    return d.parts * count_sections(d) < pieces ||
           (d.parts == 1 && section_bytes(d) > kMaxOwnSumsBytes) ||
           (kWidens && span_of(d) > kMaxSectionChannels) ||
           d.panels * panel_width > kMaxSectionChannels;
  }

  // Halves a section along one dimension, or returns false if it is as small as can be.
  bool halve(Division& d) const {
    int64_t* size = d.panels > 1          ? &d.panels
                    : d.runs > 1          ? &d.runs
                    : d.rows > tiles.rows ? &d.rows
                                          : nullptr;
    if (size == nullptr) return false;
    *size = ceil_div(*size, 2);
    return true;
  }

  int64_t count_sections(const Division& d) const {
    return ceil_div(panels, d.panels) * ceil_div(runs, d.runs) * ceil_div(run_length, d.rows);
  }
  int64_t size_of_section(const Division& d) const {
    return d.panels * d.runs * d.rows * panel_width;
  }
  int64_t section_bytes(const Division& d) const {
    return size_of_section(d) * static_cast<int64_t>(sizeof(A));
  }
  int64_t span_of(const Division& d) const {
    if (merged) return run_length;
    const int64_t groups = ceil_div(d.panels - 1, group_panels) + 1;
    return groups > 1 ? smaller(groups, geometry.groups) * run_length : d.rows;
  }
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
