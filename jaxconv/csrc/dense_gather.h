// Grouped and dense conv and input_grad, as implicit matrix products: rows are target pixels,
// columns are features of a group, and the reduction runs over taps and source channels. Sources
// are read where they are; weights are packed, and sources of 16 bits widened a tile at a time.

#pragma once

#include <cstdint>

#include "dense_pixels.h"
#include "dense_tile.h"
#include "geometry.h"
#include "workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
class DenseGather {
  using A = typename Accumulator<T>::type;
  static constexpr bool kWiden = !std::is_same_v<T, A>;

 public:
  explicit DenseGather(const Call& call)
      : call_(call), g_(call.geometry), gradient_(call.op == Operator::kInputGrad) {
    source_channels_ = gradient_ ? g_.features : g_.channels;
    target_channels_ = gradient_ ? g_.channels : g_.features;
    group_source_ = source_channels_ / g_.groups;
    group_target_ = target_channels_ / g_.groups;
    kernel_ = choose_gather_kernel<T, A>(group_target_);
    merged_ = !gradient_ && merges(g_);
    run_length_ = merged_ ? g_.axis[2].kernel * group_source_ : group_source_;
    run_sources_ = merged_ ? run_length_ : source_channels_;
    most_runs_ = g_.taps() / (merged_ ? g_.axis[2].kernel : 1);
    for (int a = 0; a < 3; ++a) {
      targets_[a] = gradient_ ? g_.axis[a].in : g_.axis[a].out;
      phases_[a] = phase_count(g_.axis[a], call.op);
    }
    panel_width_ = kernel_.vectors * kernel_.lanes;
    group_panels_ = ceil_div(group_target_, panel_width_);
    panels_ = g_.groups * group_panels_;
  }

  const char* run() {
    // Every combination of phases gets as many chunks as the largest, the first: some stay empty.
    const int64_t combinations = phases_[0] * phases_[1] * phases_[2];
    const int64_t tiles = ceil_div(grid(0).pixels(), kernel_.pixels);
    chunk_tiles_ = clamp(kChunkBytes / tile_bytes(), 1, clamp(tiles * combinations / 32, 1, 16));
    part_chunks_ = ceil_div(tiles, chunk_tiles_);

    // Weights are packed for as many combinations and panels at once as the workspace holds.
    int64_t part_taps = 1;
    for (const Axis& axis : g_.axis) part_taps *= most_taps(axis, call_.op);
    const int64_t part_bytes =
        part_taps * group_source_ * panel_width_ * static_cast<int64_t>(sizeof(A));
    const int64_t parts_at_once = clamp(kPackedBytes / part_bytes, 1, combinations);
    const int64_t most_packed = smaller(parts_at_once * part_taps, g_.taps());
    panel_size_ = most_packed * group_source_ * panel_width_;
    const int64_t panels_at_once =
        clamp(kPackedBytes / (panel_size_ * static_cast<int64_t>(sizeof(A))), 1, panels_);

    const int64_t zeros = larger(source_channels_, run_length_);
    const int64_t shared_bytes = Workspace::bytes<A>(zeros) +
                                 Workspace::bytes<int64_t>(g_.taps()) * 2 +
                                 Workspace::bytes<A>(panels_at_once * panel_size_);
    const int64_t member_bytes = Workspace::bytes<Own>(1) + Workspace::bytes<Run>(most_runs_) +
                                 chunk_tiles_ * tile_bytes();
    const int64_t members = members_for(*call_.team, member_bytes, shared_bytes);
    Workspace workspace(shared_bytes + members * member_bytes);
    if (!workspace.ok()) return kOutOfMemory;
    zeros_ = workspace.take<A>(zeros);
    std::memset(zeros_, 0, sizeof(A) * zeros);
    packed_tap_ = workspace.take<int64_t>(g_.taps());
    packed_row_ = workspace.take<int64_t>(g_.taps());
    A* packed = workspace.take<A>(panels_at_once * panel_size_);
    Own* own = workspace.take<Own>(members);
    for (int64_t i = 0; i < members; ++i) {
      own[i].runs = workspace.take<Run>(most_runs_);
      own[i].tiles = workspace.take<Tile>(chunk_tiles_);
      for (int64_t j = 0; j < chunk_tiles_; ++j) take_tile(own[i].tiles[j], workspace);
    }

    for (int64_t part = 0; part < combinations; part += parts_at_once) {
      const int64_t parts = smaller(parts_at_once, combinations - part);
      const int64_t taps = list_taps(part, parts, own[0].runs);
      for (int64_t panel = 0; panel < panels_; panel += panels_at_once) {
        const int64_t panels = smaller(panels_at_once, panels_ - panel);
        pack(panel, panels, taps, packed, members);
        compute_all(part, parts, panel, panels, taps, packed, own, members);
      }
    }
    return nullptr;
  }

 private:
  static constexpr int64_t kChunkBytes = 128 << 10;
  static constexpr int64_t kPackedBytes = 5 * (kWorkspaceBytes / 8);

  // What a block needs to know of its pixels; independent of the features.
  struct Tile {
    const A** table;
    int64_t* panel_row;
    A* staged;  // copies of runs that cannot be read in place
    T** targets;
    int64_t runs, pixels;
  };
  struct Own {
    Run* runs;
    Tile* tiles;
  };

  int64_t staged_size() const {
    return kWiden || merged_ ? most_runs_ * kernel_.pixels * run_sources_ : 0;
  }
  int64_t tile_bytes() const {
    return Workspace::bytes<Tile>(1) + Workspace::bytes<const A*>(most_runs_ * kernel_.pixels) +
           Workspace::bytes<int64_t>(most_runs_) + Workspace::bytes<A>(staged_size()) +
           Workspace::bytes<T*>(kernel_.pixels);
  }
  void take_tile(Tile& tile, Workspace& workspace) const {
    tile.table = workspace.take<const A*>(most_runs_ * kernel_.pixels);
    tile.panel_row = workspace.take<int64_t>(most_runs_);
    tile.staged = workspace.take<A>(staged_size());
    tile.targets = workspace.take<T*>(kernel_.pixels);
  }

  PixelGrid grid(int64_t combination) const {
    PixelGrid grid;
    grid.batch = g_.batch;
    grid.channels = source_channels_;
    for (int a = 2; a >= 0; --a) {
      grid.axis[a] = phase(g_.axis[a], call_.op, combination % phases_[a]);
      combination /= phases_[a];
    }
    return grid;
  }

  // Lists the taps of some combinations in the order that they are packed; returns how many.
  int64_t list_taps(int64_t part, int64_t parts, Run* runs) {
    int64_t taps = 0;
    if (!gradient_) {
      for (; taps < g_.taps(); ++taps) packed_tap_[taps] = packed_row_[taps] = taps;
      return taps;
    }
    for (int64_t i = part; i < part + parts; ++i) {
      const int64_t count = list_runs(grid(i), g_.axis, false, runs);
      for (int64_t e = 0; e < count; ++e) {
        packed_row_[runs[e].first] = taps;
        packed_tap_[taps++] = runs[e].first;
      }
    }
    return taps;
  }

  void compute_all(int64_t part, int64_t parts, int64_t first, int64_t panels, int64_t taps,
                   const A* packed, const Own* own, int64_t members) const {
    const int64_t chunks = parts * part_chunks_;
    // With few pixels, threads share the panels too.
    const int64_t splits = chunks >= 32 ? 1 : smaller(panels, ceil_div(32, chunks));
    const int64_t units = chunks * splits;
    const int64_t pixels = grid(0).pixels() * parts;
    const int64_t work =
        pixels * ceil_div(taps, parts) * group_source_ * panels * kernel_.vectors;
    const int64_t pieces = pieces_for(work, units);
    share(*call_.team, pieces, members, [&](int64_t piece, int64_t member) {
      for (int64_t u = units * piece / pieces; u < units * (piece + 1) / pieces; ++u) {
        const int64_t split = u / chunks;
        compute(part * part_chunks_ + u % chunks, first, panels * split / splits,
                panels * (split + 1) / splits, packed, own[member]);
      }
    });
  }

  // packed[panel][tap][source channel][feature], zero past the group's last feature.
  void pack(int64_t first, int64_t panels, int64_t taps, A* packed, int64_t members) const {
    const int64_t units = panels * taps;
    const int64_t pieces = pieces_for(units * group_source_ * panel_width_ / 2, units);
    share(*call_.team, pieces, members, [&](int64_t piece, int64_t) {
      for (int64_t u = units * piece / pieces; u < units * (piece + 1) / pieces; ++u) {
        const int64_t panel = u / taps, row = u % taps;
        const int64_t group = (first + panel) / group_panels_;
        const int64_t feature = (first + panel) % group_panels_ * panel_width_;
        const int64_t lanes = smaller(panel_width_, group_target_ - feature);
        A* to = packed + panel * panel_size_ + row * group_source_ * panel_width_;
        const T* from = static_cast<const T*>(call_.operand) +
                        packed_tap_[row] * g_.group_in() * g_.features + group * g_.group_out();
        if (gradient_) {
          pack_transposed(from + feature * g_.features, lanes, to);
        } else {
          pack_rows(from + feature, lanes, to);
        }
      }
    });
  }

  void pack_rows(const T* from, int64_t lanes, A* to) const {
    for (int64_t c = 0; c < group_source_; ++c, from += g_.features, to += panel_width_) {
      copy_elements(from, lanes, to);
      for (int64_t l = lanes; l < panel_width_; ++l) to[l] = 0;
    }
  }

  // By squares, so that the lines read and written stay in the L1 cache.
  void pack_transposed(const T* from, int64_t lanes, A* to) const {
    constexpr int64_t kSquare = 16;
    if (lanes < panel_width_) std::memset(to, 0, sizeof(A) * group_source_ * panel_width_);
    for (int64_t c = 0; c < group_source_; c += kSquare) {
      for (int64_t l = 0; l < lanes; ++l) {
        const T* row = from + l * g_.features;
        for (int64_t i = c; i < smaller(c + kSquare, group_source_); ++i) {
          to[i * panel_width_ + l] = to_accumulator(row[i]);
        }
      }
    }
  }

  void compute(int64_t chunk, int64_t first_panel, int64_t begin, int64_t end, const A* packed,
               const Own& own) const {
    const PixelGrid grid = this->grid(chunk / part_chunks_);
    const int64_t first = chunk % part_chunks_ * chunk_tiles_;
    const int64_t count = smaller(chunk_tiles_, ceil_div(grid.pixels(), kernel_.pixels) - first);
    if (count <= 0) return;
    const int64_t runs = list_runs(grid, g_.axis, merged_, own.runs);
    if (runs == 0) return write_zeros(grid, first, count, first_panel + begin, first_panel + end);
    const Tile* tiles = own.tiles;
    for (int64_t i = 0; i < count; ++i) build(grid, own.runs, runs, first + i, own.tiles[i]);
    GatherBlock<T, A> block;
    block.length = run_length_;
    for (int64_t p = begin; p < end; ++p) {
      block.offset = (first_panel + p) / group_panels_ * group_source_;
      block.panel = packed + p * panel_size_;
      block.feature = first_feature(first_panel + p);
      block.lanes =
          smaller(panel_width_, group_target_ - (first_panel + p) % group_panels_ * panel_width_);
      for (int64_t i = 0; i < count; ++i) {
        block.table = tiles[i].table;
        block.panel_row = tiles[i].panel_row;
        block.runs = tiles[i].runs;
        block.targets = tiles[i].targets;
        block.pixels = tiles[i].pixels;
        kernel_.run(block);
      }
    }
  }

  T* target(const PixelGrid& grid, const Pixel& pixel) const {
    int64_t index = pixel.n;
    for (int a = 0; a < 3; ++a) {
      const Phase& p = grid.axis[a];
      index = index * targets_[a] + p.first + p.step * pixel.j[a];
    }
    return static_cast<T*>(call_.result) + index * target_channels_;
  }

  int64_t first_feature(int64_t panel) const {
    return panel / group_panels_ * group_target_ + panel % group_panels_ * panel_width_;
  }

  // The targets of a phase that no tap reaches: a fifth of the time of the input gradient of a
  // 1x1 convolution of stride 2 went to adding nothing.
  void write_zeros(const PixelGrid& grid, int64_t first, int64_t count, int64_t begin,
                   int64_t end) const {
    const int64_t rows = kernel_.pixels, feature = first_feature(begin);
    const int64_t bytes = (first_feature(end) - feature) * static_cast<int64_t>(sizeof(T));
    const int64_t pixels = smaller(count * rows, grid.pixels() - first * rows);
    for_each_pixel(grid, first * rows, pixels, [&](int64_t, const Pixel& pixel) JAXCONV_LAMBDA {
      std::memset(static_cast<void*>(target(grid, pixel) + feature), 0, bytes);
    });
  }

  void build(const PixelGrid& grid, const Run* runs, int64_t run_count, int64_t index,
             Tile& tile) const {
    const int64_t rows = kernel_.pixels, first = index * rows;
    tile.pixels = smaller(rows, grid.pixels() - first);
    Pixel pixels[kMostPixels];
    bool inside = tile.pixels == rows && !kWiden;
    for_each_pixel(grid, first, tile.pixels, [&](int64_t r, const Pixel& pixel) JAXCONV_LAMBDA {
      pixels[r] = pixel;
      inside = inside && pixel.inside;
      tile.targets[r] = target(grid, pixel);
    });
    const T* source = static_cast<const T*>(call_.source);
    if constexpr (!kWiden) {
      if (inside) {
        tile.runs = run_count;
        for (int64_t e = 0; e < run_count; ++e) {
          tile.panel_row[e] = packed_row_[runs[e].first] * group_source_;
          for (int64_t r = 0; r < rows; ++r) {
            tile.table[e * rows + r] = source + pixels[r].source + runs[e].offset;
          }
        }
        return;
      }
    }
    tile.runs = 0;
    for (int64_t e = 0; e < run_count; ++e) {
      const A** entry = tile.table + tile.runs * rows;
      A* staged = tile.staged + tile.runs * rows * run_sources_;
      bool any = false;
      for (int64_t r = 0; r < rows; ++r) {
        entry[r] = zeros_;
        if (r >= tile.pixels || !reaches(pixels[r], runs[e], merged_)) continue;
        any = true;
        entry[r] = find(source, pixels[r], runs[e], staged + r * run_sources_);
      }
      if (any) tile.panel_row[tile.runs++] = packed_row_[runs[e].first] * group_source_;
    }
  }

  // Where a run that the pixel reaches can be read: in place, or copied with zeros around it.
  const A* find(const T* source, const Pixel& pixel, const Run& run, A* staged) const {
    if (merged_) {
      const int64_t taps = g_.axis[2].kernel;
      if constexpr (!kWiden) {
        if (pixel.taps[2].begin == 0 && pixel.taps[2].end == taps) {
          return source + (pixel.source + run.offset);
        }
      }
      copy_merged(source + (pixel.source + run.offset), pixel.taps[2], taps, group_source_, staged);
      return staged;
    }
    const T* from = source + (pixel.source + run.offset);
    if constexpr (kWiden) {
      copy_elements(from, run_sources_, staged);
      return staged;
    } else {
      return from;
    }
  }

  const Call& call_;
  const Geometry& g_;
  const bool gradient_;
  GatherKernel<T, A> kernel_;
  int64_t source_channels_, target_channels_, group_source_, group_target_;
  bool merged_;
  int64_t run_length_, run_sources_, most_runs_;
  int64_t targets_[3], phases_[3];
  int64_t panel_width_, group_panels_, panels_, panel_size_ = 0;
  int64_t chunk_tiles_ = 1, part_chunks_ = 1;
  A* zeros_ = nullptr;
  int64_t *packed_tap_ = nullptr, *packed_row_ = nullptr;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
