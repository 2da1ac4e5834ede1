// Grouped and dense conv and input_grad, as implicit matrix products: rows are target pixels,
// columns are features of a group, and the reduction runs over taps and source channels. Sources
// are read where they are, or staged where they are of 16 bits or lie partly in the padding; weights
// are packed.

#pragma once

#include <cstdint>

#include "isa/dense/narrow_groups_tile.h"
#include "isa/dense/few_features_tile.h"
#include "isa/dense/pixels.h"
#include "isa/dense/regions.h"
#include "isa/dense/tile.h"
#include "geometry.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
class DenseGather {
  using A = typename Accumulator<T>::type;
  static constexpr bool kWiden = !std::is_same_v<T, A>;

 public:
  explicit DenseGather(const Call& call)
      : call_(call),
        g_(call.geometry),
        gradient_(call.op == Operator::kInputGrad),
        source_channels_(gradient_ ? g_.features : g_.channels),
        target_channels_(gradient_ ? g_.channels : g_.features),
        bundled_(bundled_groups<A>(g_.groups, source_channels_ / g_.groups,
                                   target_channels_ / g_.groups)),
        groups_(g_.groups / bundled_),
        group_source_(source_channels_ / g_.groups),
        group_target_(target_channels_ / groups_),
        dots_(group_target_ <= kMostDots && group_source_ >= kLeastDotsChannels &&
              g_.taps() * group_source_ >= kLeastDotsProducts),
        kernel_(bundled_ > 1 ? choose_bundle_kernel<T, A>(group_source_)
                : dots_      ? choose_dots_kernel<T, A>(group_target_)
                             : choose_gather_kernel<T, A>(group_target_)),
        regions_(g_, call.op, kernel_.pixels, group_source_) {
    merged_ = !gradient_ && merges(g_);
    most_runs_ = g_.taps() / (merged_ ? g_.axis[2].kernel : 1);
    run_sources_ = source_channels_ * (merged_ ? g_.axis[2].kernel : 1);
    panel_width_ = kernel_.vectors * kernel_.lanes;
    group_panels_ = ceil_div(group_target_, panel_width_);
    panels_ = groups_ * group_panels_;
  }

  const char* run() {
    // Weights are packed for as many panels at once as the workspace holds, and where one for all
    // combinations of phases is too large, for one combination at a time.
    int64_t part_taps = 1;
    for (const Axis& axis : g_.axis) part_taps *= most_taps(axis, call_.op);
    const int64_t tap_bytes = group_source_ * panel_width_ * static_cast<int64_t>(sizeof(A));
    const bool at_once = g_.taps() * tap_bytes <= kPackedBytes || regions_.combinations() == 1;
    panel_size_ = (at_once ? g_.taps() : part_taps) * group_source_ * panel_width_;
    const int64_t panels_at_once =
        clamp(kPackedBytes / (panel_size_ * static_cast<int64_t>(sizeof(A))), 1, panels_);

    const int64_t blocks = ceil_div(g_.batch * (gradient_ ? g_.inputs() : g_.outputs()),
                                    kernel_.pixels);
    chunk_tiles_ = clamp(kChunkBytes / chunk_tile_bytes(), 1, clamp(blocks / 32, 1, 16));

    const int64_t shared_bytes =
        regions_.bytes() + Workspace::bytes<int64_t>(regions_.most() + 1) * 2 +
        Workspace::bytes<int64_t>(g_.taps()) * 2 + Workspace::bytes<A>(panels_at_once * panel_size_);
    const int64_t member_bytes = Workspace::bytes<Own>(1) + Workspace::bytes<Run>(most_runs_) +
                                 Workspace::bytes<int64_t>(most_runs_) * 2 +
                                 chunk_tiles_ * tile_bytes();
    const int64_t members = members_for(*call_.team, member_bytes, shared_bytes);
    Workspace workspace(shared_bytes + members * member_bytes);
    if (!workspace.ok()) return kOutOfMemory;
    regions_.list(workspace);
    first_chunk_ = workspace.take<int64_t>(regions_.most() + 1);
    first_cost_ = workspace.take<int64_t>(regions_.most() + 1);
    packed_tap_ = workspace.take<int64_t>(g_.taps());
    packed_row_ = workspace.take<int64_t>(g_.taps());
    A* packed = workspace.take<A>(panels_at_once * panel_size_);
    Own* own = workspace.take<Own>(members);
    for (int64_t i = 0; i < members; ++i) take_own(own[i], workspace);

    for (int64_t part = 0; part < (at_once ? 1 : regions_.combinations()); ++part) {
      if (!at_once) regions_.select(part);
      number_chunks();
      const int64_t taps = list_taps(at_once, part, own[0].runs);
      for (int64_t panel = 0; panel < panels_; panel += panels_at_once) {
        const int64_t panels = smaller(panels_at_once, panels_ - panel);
        pack(panel, panels, taps, packed, members);
        compute_all(panel, panels, packed, own, members);
      }
    }
    return nullptr;
  }

 private:
  static constexpr int64_t kEndCost = 40;  // products of a block that storing it costs as much as
  static constexpr int64_t kSplitBytes = 512 << 10;  // half of the L2 cache
  static constexpr int64_t kLeastUnits = 64;
  static constexpr int64_t kLineBytes = 64;
  static constexpr int64_t kChunkBytes = 128 << 10;
  static constexpr int64_t kPackedBytes = 5 * (kWorkspaceBytes / 8);

  // What a block needs to know of its pixels; independent of the features.
  struct Tile {
    const A** sources;
    T** targets;
    const int64_t *offset, *panel_row;
    int64_t runs, pixels;
    int size;
    int64_t *own_offset, *own_panel_row;  // of a staged tile, which may have fewer runs than others
    A* staged;
  };
  struct Own {
    Run* runs;
    int64_t *offset, *panel_row;
    Tile* tiles;
  };
  // The region of a chunk, and what its tiles have in common.
  struct Region {
    PixelGrid grid;
    bool staged;
    int64_t runs, run_length;
  };

  // Anything may have to be staged where an axis is not cut.
  int64_t staged_size() const {
    return kWiden || regions_.bordered() ? most_runs_ * kernel_.pixels * run_sources_ : 0;
  }
  int64_t tile_bytes() const {
    return Workspace::bytes<Tile>(1) + Workspace::bytes<const A*>(kernel_.pixels) +
           Workspace::bytes<T*>(kernel_.pixels) + Workspace::bytes<int64_t>(most_runs_) * 2 +
           Workspace::bytes<A>(staged_size());
  }
  // What a tile adds to what a chunk wants kept in the L2 cache.
  int64_t chunk_tile_bytes() const {
    const int64_t read = kernel_.pixels * group_source_ * static_cast<int64_t>(sizeof(T));
    return larger(tile_bytes(), read);
  }
  void take_own(Own& own, Workspace& workspace) const {
    own.runs = workspace.take<Run>(most_runs_);
    own.offset = workspace.take<int64_t>(most_runs_);
    own.panel_row = workspace.take<int64_t>(most_runs_);
    own.tiles = workspace.take<Tile>(chunk_tiles_);
    for (int64_t j = 0; j < chunk_tiles_; ++j) {
      Tile& tile = own.tiles[j];
      tile.sources = workspace.take<const A*>(kernel_.pixels);
      tile.targets = workspace.take<T*>(kernel_.pixels);
      tile.own_offset = workspace.take<int64_t>(most_runs_);
      tile.own_panel_row = workspace.take<int64_t>(most_runs_);
      tile.staged = workspace.take<A>(staged_size());
    }
  }

  PixelGrid grid(int64_t region) const {
    PixelGrid grid;
    grid.batch = g_.batch;
    grid.channels = source_channels_;
    grid.target_channels = target_channels_;
    regions_.axes(region, grid.axis);
    for (int a = 0; a < 3; ++a) grid.targets[a] = gradient_ ? g_.axis[a].in : g_.axis[a].out;
    return grid;
  }

  // Chunks are numbered through all regions, and what they cost is summed up: few taps cost little.
  void number_chunks() {
    first_chunk_[0] = first_cost_[0] = 0;
    for (int64_t i = 0; i < regions_.count(); ++i) {
      const PixelGrid grid = this->grid(i);
      const int64_t chunks = ceil_div(ceil_div(grid.pixels(), kernel_.pixels), chunk_tiles_);
      first_chunk_[i + 1] = first_chunk_[i] + chunks;
      first_cost_[i + 1] = first_cost_[i] + chunks * (grid.taps() * group_source_ + kEndCost);
    }
  }
  // The region that number `at` of what `first` numbers lies in.
  int64_t region_of(const int64_t* first, int64_t at) const {
    int64_t low = 0, high = regions_.count() - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (first[middle + 1] <= at) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
  // The first chunk that begins at this cost or later.
  int64_t chunk_at(int64_t cost) const {
    const int64_t i = region_of(first_cost_, cost);
    const int64_t chunks = first_chunk_[i + 1] - first_chunk_[i];
    const int64_t each = (first_cost_[i + 1] - first_cost_[i]) / chunks;
    return first_chunk_[i] + ceil_div(cost - first_cost_[i], each);
  }

  // Lists the taps in the order that they are packed, all or those of a combination of phases;
  // returns how many.
  int64_t list_taps(bool all, int64_t combination, Run* runs) {
    int64_t taps = 0;
    if (all) {
      for (; taps < g_.taps(); ++taps) packed_tap_[taps] = packed_row_[taps] = taps;
      return taps;
    }
    PixelGrid grid{};
    regions_.phases(combination, grid.axis);
    const int64_t count = list_runs(grid, g_.axis, false, runs);
    for (; taps < count; ++taps) {
      packed_tap_[taps] = runs[taps].first;
      packed_row_[runs[taps].first] = taps;
    }
    return taps;
  }

  void compute_all(int64_t first, int64_t panels, const A* packed, const Own* own,
                   int64_t members) const {
    const int64_t chunks = first_chunk_[regions_.count()];
    // All chunks go through a few panels before the next few, which so stay in the L2 cache; with few
    // pixels, threads share the panels too.
    const int64_t panel_bytes = panel_size_ * static_cast<int64_t>(sizeof(A));
    const int64_t splits = clamp(ceil_div(panels * panel_bytes, kSplitBytes),
                                 ceil_div(kLeastUnits, chunks), panels);
    const int64_t cost = first_cost_[regions_.count()];
    const int64_t vectors = ceil_div(panels, splits) * kernel_.vectors * kernel_.pixels;
    const int64_t pieces = pieces_for(cost * chunk_tiles_ * vectors * splits, chunks * splits);
    // Pieces of about one cost, the chunks of one split after those of the last.
    const auto unit_at = [&](int64_t piece) {
      const int64_t at = cost * splits * piece / pieces;
      return piece == pieces ? chunks * splits : at / cost * chunks + chunk_at(at % cost);
    };
    share(*call_.team, pieces, members, [&](int64_t piece, int64_t member) {
      for (int64_t u = unit_at(piece); u < unit_at(piece + 1); ++u) {
        const int64_t split = u / chunks;
        compute(u % chunks, first, panels * split / splits, panels * (split + 1) / splits, packed,
                own[member]);
      }
    });
  }

  int64_t panel_lanes(int64_t panel) const {
    return smaller(panel_width_, group_target_ - panel % group_panels_ * panel_width_);
  }
  // A group's last panel is as narrow as its features let it be.
  int64_t panel_vectors(int64_t panel) const { return ceil_div(panel_lanes(panel), kernel_.lanes); }

  // packed[panel][tap][source channel][feature], zero past the group's last feature.
  void pack(int64_t first, int64_t panels, int64_t taps, A* packed, int64_t members) const {
    const int64_t units = panels * taps;
    const int64_t pieces = pieces_for(units * group_source_ * panel_width_ / 2, units);
    share(*call_.team, pieces, members, [&](int64_t piece, int64_t) {
      for (int64_t u = units * piece / pieces; u < units * (piece + 1) / pieces; ++u) {
        const int64_t panel = u / taps, row = u % taps;
        const int64_t group = (first + panel) / group_panels_;
        const int64_t feature = (first + panel) % group_panels_ * panel_width_;
        const int64_t lanes = panel_lanes(first + panel);
        const int64_t width = panel_vectors(first + panel) * kernel_.lanes;
        A* to = packed + panel * panel_size_ + row * group_source_ * width;
        const T* from = static_cast<const T*>(call_.operand) +
                        packed_tap_[row] * g_.group_in() * g_.features +
                        group * (g_.features / groups_);
        if (bundled_ > 1) {
          pack_bundle(from, to);
        } else if (dots_) {
          pack_dots(from, to);
        } else if (!gradient_) {
          pack_rows(from + feature, lanes, width, to);
        } else {
          pack_transposed(from + feature * g_.features, lanes, width, to);
        }
      }
    });
  }

  void pack_rows(const T* from, int64_t lanes, int64_t width, A* to) const {
    for (int64_t c = 0; c < group_source_; ++c, from += g_.features, to += width) {
      copy_elements(from, lanes, to);
      for (int64_t l = lanes; l < width; ++l) to[l] = 0;
    }
  }

  // One feature after the other, which in a gradient are the kernel's rows.
  void pack_dots(const T* from, A* to) const {
    for (int64_t l = 0; l < group_target_; ++l, to += group_source_) {
      if (gradient_) {
        copy_elements(from + l * g_.features, group_source_, to);
      } else {
        for (int64_t c = 0; c < group_source_; ++c) {
          to[c] = to_accumulator(from[c * g_.features + l]);
        }
      }
    }
  }

  // In the order that bundle_block takes its sources.
  void pack_bundle(const T* from, A* to) const {
    const int64_t width = group_source_;
    for (int64_t s = 0; s < width; ++s) {
      for (int64_t l = 0; l < group_target_; ++l) {
        const int64_t lane = l % width, source = lane ^ s;
        *to++ = to_accumulator(gradient_ ? from[lane * g_.features + (l - lane) + source]
                                         : from[source * g_.features + l]);
      }
    }
  }

  // By squares of whole vectors, then what is left: element by element, the input gradient of 3x3
  // 1x7x7x512 took twice as long as the convolution.
  void pack_transposed(const T* from, int64_t lanes, int64_t width, A* to) const {
    constexpr int N = kVectorBytes / sizeof(A);
    if (lanes < width) std::memset(to, 0, sizeof(A) * group_source_ * width);
    const int64_t rows = lanes / N * N, columns = group_source_ / N * N;
    for (int64_t c = 0; c < columns; c += N) {
      for (int64_t l = 0; l < rows; l += N) {
        Vec<A, N> square[N];
        unroll<N>([&](auto i) JAXCONV_LAMBDA {
          square[i] = load<A, N>(from + (l + i) * g_.features + c);
        });
        transpose<A, N>(square);
        unroll<N>([&](auto i) JAXCONV_LAMBDA {
          store<A, N>(to + (c + i) * width + l, square[i]);
        });
      }
    }
    for (int64_t l = 0; l < lanes; ++l) {
      const T* row = from + l * g_.features;
      for (int64_t c = l < rows ? columns : 0; c < group_source_; ++c) {
        to[c * width + l] = to_accumulator(row[c]);
      }
    }
  }

  void compute(int64_t chunk, int64_t first_panel, int64_t begin, int64_t end, const A* packed,
               const Own& own) const {
    const int64_t index = region_of(first_chunk_, chunk);
    Region region;
    region.grid = grid(index);
    const int64_t first = (chunk - first_chunk_[index]) * chunk_tiles_;
    const int64_t tiles = ceil_div(region.grid.pixels(), kernel_.pixels);
    const int64_t count = smaller(chunk_tiles_, tiles - first);
    region.runs = list_runs(region.grid, g_.axis, merged_, own.runs);
    if (region.runs == 0) {
      return write_zeros(region.grid, first, count, first_panel + begin, first_panel + end);
    }
    region.run_length = group_source_ * (merged_ ? region.grid.axis[2].taps : 1);
    region.staged = kWiden || !region.grid.whole();
    for (int64_t e = 0; e < region.runs; ++e) {
      own.offset[e] = own.runs[e].offset;
      own.panel_row[e] = packed_row_[own.runs[e].first] * group_source_;
    }
    for (int64_t i = 0; i < count; ++i) build(region, own, first + i, own.tiles[i]);
    // Narrow groups share the cache lines of their sources: one block of pixels after the other
    // reads those once.
    const bool by_tile = group_source_ * static_cast<int64_t>(sizeof(T)) < kLineBytes;
    const int64_t tiles_at_once = by_tile ? 1 : count;
    for (int64_t i = 0; i < count; i += tiles_at_once) {
      for (int64_t p = begin; p < end; ++p) {
        compute_panel(region, first_panel + p, packed + p * panel_size_, own.tiles + i,
                      tiles_at_once);
      }
    }
  }

  void compute_panel(const Region& region, int64_t panel, const A* packed, const Tile* tile,
                     int64_t count) const {
    GatherBlock<T, A> block;
    block.length = region.run_length;
    block.channel = panel / group_panels_ * (source_channels_ / groups_);
    block.panel = packed;
    block.feature = first_feature(panel);
    block.lanes = panel_lanes(panel);
    const int64_t vectors = panel_vectors(panel);
    for (const Tile* const end = tile + count; tile < end; ++tile) {
      block.sources = tile->sources;
      block.offset = tile->offset;
      block.panel_row = tile->panel_row;
      block.runs = tile->runs;
      block.targets = tile->targets;
      block.pixels = tile->pixels;
      kernel_.run[tile->size][vectors - 1](block);
    }
  }

  int64_t first_feature(int64_t panel) const {
    return panel / group_panels_ * group_target_ + panel % group_panels_ * panel_width_;
  }

  // The targets that no tap reaches: a fifth of the time of the input gradient of a 1x1 convolution
  // of stride 2 went to adding nothing.
  void write_zeros(const PixelGrid& grid, int64_t first, int64_t count, int64_t begin,
                   int64_t end) const {
    const int64_t rows = kernel_.pixels, feature = first_feature(begin);
    const int64_t bytes = (first_feature(end) - feature) * static_cast<int64_t>(sizeof(T));
    const int64_t pixels = smaller(count * rows, grid.pixels() - first * rows);
    T* result = static_cast<T*>(call_.result) + feature;
    for_each_pixel(grid, first * rows, pixels, [&](int64_t, const Pixel& pixel) JAXCONV_LAMBDA {
      std::memset(static_cast<void*>(result + pixel.target), 0, bytes);
    });
  }

  void build(const Region& region, const Own& own, int64_t index, Tile& tile) const {
    const int64_t first = index * kernel_.pixels;
    tile.pixels = smaller(kernel_.pixels, region.grid.pixels() - first);
    tile.size = block_size(kernel_.pixels, tile.pixels);
    const int64_t rows = block_pixels(static_cast<int>(kernel_.pixels), tile.size);
    const T* source = static_cast<const T*>(call_.source);
    T* result = static_cast<T*>(call_.result);
    Pixel pixels[kMostPixels];
    for_each_pixel(region.grid, first, tile.pixels,
                   [&](int64_t r, const Pixel& pixel) JAXCONV_LAMBDA {
                     pixels[r] = pixel;
                     tile.targets[r] = result + pixel.target;
                   });
    if constexpr (!kWiden) {
      if (!region.staged) {
        tile.offset = own.offset;
        tile.panel_row = own.panel_row;
        tile.runs = region.runs;
        for (int64_t r = 0; r < rows; ++r) {  // the first one stands in for those that are missing
          tile.sources[r] = source + pixels[r < tile.pixels ? r : 0].source;
        }
        return;
      }
    }
    const int64_t room = most_runs_ * run_sources_;
    for (int64_t r = 0; r < rows; ++r) {
      tile.sources[r] = tile.staged + (r < tile.pixels ? r : 0) * room;
    }
    tile.offset = tile.own_offset;
    tile.panel_row = tile.own_panel_row;
    tile.runs = 0;
    for (int64_t e = 0; e < region.runs; ++e) {
      const Run& run = own.runs[e];
      const int64_t at = tile.runs * run_sources_;
      bool any = false;
      for (int64_t r = 0; r < tile.pixels; ++r) any = any || reaches(pixels[r], run, merged_);
      if (!any) continue;
      for (int64_t r = 0; r < tile.pixels; ++r) {
        stage(source, pixels[r], run, region.grid.axis[2].taps, tile.staged + r * room + at);
      }
      tile.own_offset[tile.runs] = at;
      tile.own_panel_row[tile.runs++] = own.panel_row[e];
    }
  }

  // Copies the sources that a pixel has in a run, with zeros for those that it has not.
  void stage(const T* source, const Pixel& pixel, const Run& run, int64_t row_taps, A* to) const {
    const int64_t length = merged_ ? row_taps * group_source_ : run_sources_;
    if (!reaches(pixel, run, merged_)) {
      std::memset(to, 0, sizeof(A) * length);
    } else if (merged_) {
      copy_merged(source + (pixel.source + run.offset), pixel.taps[2], row_taps, group_source_, to);
    } else {
      copy_elements(source + (pixel.source + run.offset), length, to);
    }
  }

  const Call& call_;
  const Geometry& g_;
  const bool gradient_;
  const int64_t source_channels_, target_channels_;
  const int64_t bundled_, groups_;             // groups in a bundle, and bundles
  const int64_t group_source_, group_target_;  // products a tap, and features of a group or bundle
  const bool dots_;                            // panels are packed for choose_dots_kernel
  const GatherKernel<T, A> kernel_;
  Regions regions_;
  bool merged_;
  int64_t run_sources_, most_runs_;  // of a run's sources, all groups' channels
  int64_t panel_width_, group_panels_, panels_, panel_size_ = 0;
  int64_t chunk_tiles_ = 1;
  int64_t *first_chunk_ = nullptr, *first_cost_ = nullptr;
  int64_t *packed_tap_ = nullptr, *packed_row_ = nullptr;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
