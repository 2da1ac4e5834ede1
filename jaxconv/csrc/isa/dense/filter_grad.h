// The filter gradient of grouped and dense convolutions, as a matrix product whose reduction runs
// over output pixels: rows are (tap, in-feature) pairs, columns out-features.
//
// Pixels come in blocks. A block of cotangents is packed into panels of features; for each tap the
// pixels that have sources are listed as segments of output rows, and tiles of R in-features x V
// vectors of out-features run down them, their sums in registers. Between blocks the sums rest in
// memory. The result is cut into blocks of its own and pixels into parts, whose sums are added
// in order at the end; both cuts depend on the shape alone.

#pragma once

#include <cstdint>

#include "isa/dense/filter_grad_tile.h"
#include "isa/dense/pixels.h"
#include "geometry.h"
#include "isa/vec.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
class DenseFilter {
  using A = typename Accumulator<T>::type;
  static constexpr bool kWiden = !std::is_same_v<T, A>;

 public:
  explicit DenseFilter(const Call& call) : call_(call), g_(call.geometry) {
    kernel_ = choose_filter_kernel<A>(g_.group_out());
    merged_ = merges(g_);
    run_length_ = g_.group_in() * (merged_ ? g_.axis[2].kernel : 1);
    runs_count_ = g_.taps() / (merged_ ? g_.axis[2].kernel : 1);
    width_ = kernel_.vectors * kernel_.lanes;
    group_panels_ = ceil_div(g_.group_out(), width_);
    panels_ = g_.groups * group_panels_;
    grid_.batch = g_.batch;
    grid_.channels = g_.channels;
    for (int a = 0; a < 3; ++a) grid_.axis[a] = phase(g_.axis[a], Operator::kConv, 0);
  }

  const char* run() {
    cut();
    const int64_t block_size = panel_step_ * run_step_ * row_step_ * width_;
    const int64_t shared_sums = parts_ > 1 ? parts_ * blocks() * block_size : 0;
    const int64_t own_sums = parts_ > 1 ? 0 : block_size;
    const int64_t packed_size = pixel_block_ * panel_step_ * width_;
    const int64_t copied = kWiden || merged_ ? pixel_block_ * channel_span() : 0;
    const int64_t shared_bytes =
        Workspace::bytes<Run>(runs_count_) + Workspace::bytes<A>(shared_sums);
    const int64_t member_bytes =
        Workspace::bytes<Own>(1) + Workspace::bytes<Row>(pixel_block_) +
        Workspace::bytes<Segment<A>>(pixel_block_) + Workspace::bytes<A>(packed_size) +
        Workspace::bytes<A>(copied) + Workspace::bytes<A>(own_sums);
    const int64_t members = members_for(*call_.team, member_bytes, shared_bytes);
    Workspace workspace(shared_bytes + members * member_bytes);
    if (!workspace.ok()) return kOutOfMemory;
    runs_ = workspace.take<Run>(runs_count_);
    list_runs(grid_, g_.axis, merged_, runs_);
    A* sums = workspace.take<A>(shared_sums);
    Own* own = workspace.take<Own>(members);
    for (int64_t i = 0; i < members; ++i) {
      own[i].rows = workspace.take<Row>(pixel_block_);
      own[i].segments = workspace.take<Segment<A>>(pixel_block_);
      own[i].packed = workspace.take<A>(packed_size);
      own[i].copied = workspace.take<A>(copied);
      own[i].sums = workspace.take<A>(own_sums);
    }

    const int64_t pixels = grid_.pixels();
    share(*call_.team, parts_ * blocks(), members, [&](int64_t piece, int64_t member) {
      const Block block = this->block(piece / parts_);
      const int64_t part = piece % parts_;
      A* to = parts_ > 1 ? sums + piece * block_size : own[member].sums;
      std::memset(to, 0, sizeof(A) * block_size);
      const int64_t last = pixels * (part + 1) / parts_;
      for (int64_t p = pixels * part / parts_; p < last; p += pixel_block_) {
        accumulate(block, p, smaller(pixel_block_, last - p), own[member], to);
      }
      if (parts_ == 1) finish(block, to, 0);
    });
    if (parts_ > 1) {
      const bool small = parts_ * blocks() * block_size / kernel_.lanes < kPieceWork;
      share(*call_.team, blocks(), small ? 1 : members, [&](int64_t i, int64_t) {
        finish(block(i), sums + i * parts_ * block_size, block_size);
      });
    }
    return nullptr;
  }

 private:
  static constexpr int64_t kSumsBytes = 5 * (kWorkspaceBytes / 8);
  static constexpr int64_t kOwnSumsBytes = 320 << 10;
  static constexpr int64_t kPixelBytes = 192 << 10;
  static constexpr int64_t kMostChannels = 4096;  // of a pixel that a block copies

  // A block of the result: panels of features, runs of taps, in-features (rows) within a run.
  struct Block {
    int64_t panel, panels, run, runs, row, rows;
  };
  // The pixels of a block that lie in one row of outputs.
  struct Row {
    int64_t at[2];         // the index of their sources for tap 0, but for the last axis
    int64_t source;        // the offset of the first one's, which may lie outside
    int64_t first, count;  // on the last axis
    int64_t pixel;         // of the block
  };
  struct Own {
    Row* rows;
    Segment<A>* segments;
    A *packed, *copied, *sums;
  };

  static int64_t halve(int64_t step) { return ceil_div(step, 2); }

  // Source channels that the panels of one block read.
  int64_t channel_span() const {
    if (merged_) return run_length_;
    const int64_t groups = ceil_div(panel_step_ - 1, group_panels_) + 1;
    return groups > 1 ? smaller(groups, g_.groups) * run_length_ : row_step_;
  }

  // By shape alone: as many parts as their sums fit the workspace, then as many blocks as make the
  // work divide well, at least as many as let one block's sums stay in the L2 cache.
  void cut() {
    const int64_t vector_macs =
        grid_.pixels() * runs_count_ * run_length_ * panels_ * kernel_.vectors;
    const int64_t pieces = pieces_for(vector_macs, 32);
    panel_step_ = panels_;
    run_step_ = runs_count_;
    row_step_ = run_length_;
    const auto sums_bytes = [&] {
      return panel_step_ * run_step_ * row_step_ * width_ * static_cast<int64_t>(sizeof(A));
    };
    parts_ = clamp(kSumsBytes / sums_bytes(), 1, smaller(pieces, 16));
    const auto too_large = [&] {
      return parts_ * blocks() < pieces || (parts_ == 1 && sums_bytes() > kOwnSumsBytes) ||
             (kWiden && channel_span() > kMostChannels) || panel_step_ * width_ > kMostChannels;
    };
    while (too_large()) {
      if (panel_step_ > 1) {
        panel_step_ = halve(panel_step_);
      } else if (run_step_ > 1) {
        run_step_ = halve(run_step_);
      } else if (row_step_ > kernel_.rows) {
        row_step_ = halve(row_step_);
      } else {
        break;
      }
    }
    // Steps that do not divide leave room in the last blocks, which the sums of all parts take too.
    parts_ = clamp(kSumsBytes / (blocks() * sums_bytes()), 1, parts_);
    const int64_t pixel_bytes =
        (channel_span() + panel_step_ * width_) * static_cast<int64_t>(sizeof(A));
    pixel_block_ = clamp(kPixelBytes / pixel_bytes, 32, 144);  // a panel of them stays in L1
  }

  int64_t blocks() const {
    return ceil_div(panels_, panel_step_) * ceil_div(runs_count_, run_step_) *
           ceil_div(run_length_, row_step_);
  }

  Block block(int64_t index) const {
    const int64_t row_blocks = ceil_div(run_length_, row_step_);
    const int64_t run_blocks = ceil_div(runs_count_, run_step_);
    Block b;
    b.row = index % row_blocks * row_step_;
    b.run = index / row_blocks % run_blocks * run_step_;
    b.panel = index / row_blocks / run_blocks * panel_step_;
    b.rows = smaller(row_step_, run_length_ - b.row);
    b.runs = smaller(run_step_, runs_count_ - b.run);
    b.panels = smaller(panel_step_, panels_ - b.panel);
    return b;
  }

  int64_t panel_feature(int64_t panel) const {
    return panel / group_panels_ * g_.group_out() + panel % group_panels_ * width_;
  }
  int64_t panel_lanes(int64_t panel) const {
    return smaller(width_, g_.group_out() - panel % group_panels_ * width_);
  }

  void accumulate(const Block& b, int64_t first, int64_t count, const Own& own, A* sums) const {
    const int64_t rows = cut_rows(first, count, own.rows);
    pack(b, first, count, own.packed);
    // Segments begin at the block's first channel, those of merged runs at the run's.
    const int64_t base = merged_ ? 0 : b.panel / group_panels_ * g_.group_in() + b.row;
    const int64_t span = merged_ ? run_length_ : smaller(channel_span(), g_.channels - base);
    FilterBlock<A> tile;
    tile.segments = own.segments;
    for (int64_t e = 0; e < b.runs; ++e) {
      tile.count = list(runs_[b.run + e], rows, base, span, own);
      if (tile.count == 0) continue;
      for (int64_t p = 0; p < b.panels; ++p) {
        const int64_t group = (b.panel + p) / group_panels_ - b.panel / group_panels_;
        tile.panel = p * count * width_;
        A* to = sums + (p * b.runs + e) * b.rows * width_;
        const int64_t tiles = ceil_div(b.rows, kernel_.rows);
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t row = b.rows * t / tiles, tile_rows = b.rows * (t + 1) / tiles - row;
          tile.offset = group * g_.group_in() + row + (merged_ ? b.row : 0);
          tile.sums = to + row * width_;
          kernel_.run[tile_rows](tile);
        }
      }
    }
  }

  // Cuts pixels [first, first + count) into rows of outputs; returns how many.
  int64_t cut_rows(int64_t first, int64_t count, Row* row) const {
    const Phase *d = grid_.axis, *h = d + 1, *w = d + 2;
    const Row* const begin = row;
    for (int64_t done = 0; done < count; done += row->count, ++row) {
      const int64_t pixel = first + done, above = pixel / w->count;
      row->first = pixel % w->count;
      row->count = smaller(w->count - row->first, count - done);
      row->pixel = done;
      row->at[0] = d->source(above / h->count % d->count, 0);
      row->at[1] = h->source(above % h->count, 0);
      const int64_t n = above / h->count / d->count;
      row->source = (((n * d->sources + row->at[0]) * h->sources + row->at[1]) * w->sources +
                     w->source(row->first, 0)) *
                    g_.channels;
    }
    return row - begin;
  }

  // packed[panel][pixel][feature], zero past the group's last feature.
  void pack(const Block& b, int64_t first, int64_t count, A* packed) const {
    const T* cotangents = static_cast<const T*>(call_.operand) + first * g_.features;
    for (int64_t p = b.panel; p < b.panel + b.panels; ++p) {
      const T* from = cotangents + panel_feature(p);
      const int64_t lanes = panel_lanes(p);
      for (int64_t i = 0; i < count; ++i, from += g_.features, packed += width_) {
        copy_elements(from, lanes, packed);
        for (int64_t l = lanes; l < width_; ++l) packed[l] = 0;
      }
    }
  }

  // Lists the pixels that have sources in the run, `span` channels of them from `base` on; returns
  // the number of segments.
  int64_t list(const Run& run, int64_t rows, int64_t base, int64_t span, const Own& own) const {
    const Phase& w = grid_.axis[2];
    const int64_t step = w.per_target * g_.channels;
    // The pixels of a row that have a source, or all the sources of a merged run.
    Range found = inside(w.source(0, run.tap[2]), w.per_target, w.count, w.sources);
    if (merged_) {
      const int64_t last = inside(w.source(0, w.taps - 1), w.per_target, w.count, w.sources).end;
      found = {smaller(found.begin, last), smaller(found.end, last)};
    }
    const T* source = static_cast<const T*>(call_.source) + run.offset + base;
    Segment<A>* segment = own.segments;
    A* copy = own.copied;
    for (const Row* row = own.rows; row < own.rows + rows; ++row) {
      if (!exists(run, *row)) continue;
      const int64_t end = row->first + row->count;
      const int64_t a = clamp(found.begin, row->first, end), b = clamp(found.end, a, end);
      const T* first = source + row->source;
      const A* cotangent = own.packed + row->pixel * width_;
      if (merged_) copy_border(*row, row->first, a, first, cotangent, segment, copy);
      if (a < b) {
        const T* from = first + (a - row->first) * step;
        *segment = {copy, span, cotangent + (a - row->first) * width_, b - a};
        if constexpr (kWiden) {
          for (int64_t i = 0; i < b - a; ++i, copy += span) {
            copy_elements(from + i * step, span, copy);
          }
        } else {
          segment->source = from;
          segment->source_step = step;
        }
        ++segment;
      }
      if (merged_) copy_border(*row, b, end, first, cotangent, segment, copy);
    }
    return segment - own.segments;
  }

  // Whether the rows of sources that the run asks for exist.
  bool exists(const Run& run, const Row& row) const {
    for (int a = 0; a < 2; ++a) {
      const int64_t at = row.at[a] + run.tap[a] * grid_.axis[a].per_tap;
      if (at < 0 || at >= grid_.axis[a].sources) return false;
    }
    return true;
  }

  // Lists copies of the merged runs of pixels [begin, end), which lie partly in the padding.
  void copy_border(const Row& row, int64_t begin, int64_t end, const T* first, const A* cotangent,
                   Segment<A>*& segment, A*& copy) const {
    const Phase& w = grid_.axis[2];
    for (int64_t j = begin; j < end; ++j, copy += run_length_) {
      const T* from = first + (j - row.first) * w.per_target * g_.channels;
      copy_merged(from, valid_taps(w, j), w.taps, g_.channels, copy);
      *segment++ = {copy, run_length_, cotangent + (j - row.first) * width_, 1};
    }
  }

  // Writes a block of the result: the parts' sums, each `part_step` after the last, in order.
  void finish(const Block& b, const A* sums, int64_t part_step) const {
    for (int64_t p = 0; p < b.panels; ++p) {
      const int64_t lanes = panel_lanes(b.panel + p), feature = panel_feature(b.panel + p);
      for (int64_t e = 0; e < b.runs; ++e) {
        T* result = static_cast<T*>(call_.result) +
                    (runs_[b.run + e].first * g_.group_in() + b.row) * g_.features + feature;
        const A* from = sums + (p * b.runs + e) * b.rows * width_;
        for (int64_t r = 0; r < b.rows; ++r, result += g_.features, from += width_) {
          add_parts(from, part_step, lanes, result);
        }
      }
    }
  }

  void add_parts(const A* from, int64_t part_step, int64_t lanes, T* result) const {
    constexpr int N = kVectorBytes / sizeof(A);
    for (int64_t l = 0; l < lanes; l += N) {
      if (lanes - l < N) {
        auto total = load<A, N, true>(from + l, lanes - l);
        for (int64_t part = 1; part < parts_; ++part) {
          total += load<A, N, true>(from + part * part_step + l, lanes - l);
        }
        store<A, N, true>(result + l, total, lanes - l);
      } else {
        auto total = load<A, N>(from + l);
        for (int64_t part = 1; part < parts_; ++part) {
          total += load<A, N>(from + part * part_step + l);
        }
        store<A, N>(result + l, total);
      }
    }
  }

  const Call& call_;
  const Geometry& g_;
  FilterKernel<A> kernel_;
  PixelGrid grid_;
  bool merged_;
  int64_t run_length_, runs_count_, width_, group_panels_, panels_;
  int64_t panel_step_, run_step_, row_step_, parts_ = 1, pixel_block_;
  Run* runs_ = nullptr;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
