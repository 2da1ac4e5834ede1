// The filter gradient of grouped and dense convolutions, as a matrix product whose reduction runs
// over output pixels: rows are (tap, in-feature) pairs, columns out-features.
//
// Pixels come in blocks. A block of cotangents is packed into panels of features; for each tap the
// sources of its pixels are listed, those in the padding left out, and tiles of R in-features x V
// vectors of out-features run down the list, their sums in registers. Between blocks the sums rest
// in memory. The result is cut into blocks of its own and pixels into parts, whose sums are added
// in order at the end; both cuts depend on the shape alone.

#pragma once

#include <cstdint>

#include "dense_pixels.h"
#include "geometry.h"
#include "vec.h"
#include "workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// sums[r][v] += sum over the list, which is not empty, of source[i][r] * cotangent[i][v].
template <class A>
struct FilterBlock {
  const A* const* source;
  const A* const* cotangent;
  int64_t count;
  int64_t offset;  // of the first in-feature from the source pointers
  int64_t panel;   // of the panel from the cotangent pointers
  A* sums;         // [R][V*N]
};

template <class A, int N, int R, int V>
void filter_block(const FilterBlock<A>& b) {
  Vec<A, N> acc[R][V];
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    unroll<V>([&](auto v) JAXCONV_LAMBDA {
      acc[r][v] = load<A, N>(b.sums + (r * V + v) * N);
    });
  });
  int64_t i = 0;
  do {  // count > 0: a loop that may not run costs GCC a copy of all the sums
    const A* source = b.source[i] + b.offset;
    const A* cotangent = b.cotangent[i] + b.panel;
    Vec<A, N> g[V];
    unroll<V>([&](auto v) JAXCONV_LAMBDA { g[v] = load<A, N>(cotangent + v * N); });
    unroll<R>([&](auto r) JAXCONV_LAMBDA {
      const auto x = broadcast<A, N>(source[r]);
      unroll<V>([&](auto v) JAXCONV_LAMBDA { acc[r][v] += x * g[v]; });
    });
  } while (++i < b.count);
  unroll<R>([&](auto r) JAXCONV_LAMBDA {
    unroll<V>([&](auto v) JAXCONV_LAMBDA {
      store<A, N>(b.sums + (r * V + v) * N, acc[r][v]);
    });
  });
}

// Blocks of 1 … rows in-features.
template <class A>
struct FilterKernel {
  void (*run[13])(const FilterBlock<A>&);
  int64_t rows, vectors, lanes;
};

template <class A, int N, int R, int V>
FilterKernel<A> filter_kernel() {
  FilterKernel<A> kernel{{}, R, V, N};
  unroll<R>([&](auto r) { kernel.run[r + 1] = filter_block<A, N, decltype(r)::value + 1, V>; });
  return kernel;
}

template <class A>
FilterKernel<A> choose_filter_kernel(int64_t features) {
  constexpr int N = kVectorBytes / sizeof(A);
  if constexpr (kVectorBytes >= 64) {
    if (features <= N / 4) return filter_kernel<A, N / 4, 12, 1>();
  }
  if constexpr (kVectorBytes >= 32) {
    if (features <= N / 2) return filter_kernel<A, N / 2, 12, 1>();
  }
  if (features <= N) return filter_kernel<A, N, 12, 1>();
  if constexpr (kVectorRegisters == 32) {
    const int64_t vectors = ceil_div(features, N);
    if (vectors % 2 != 0 && vectors % 3 == 0) return filter_kernel<A, N, 8, 3>();
    return filter_kernel<A, N, 12, 2>();
  } else {
    return filter_kernel<A, N, 6, 2>();
  }
}

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
        Workspace::bytes<Own>(1) + Workspace::bytes<Pixel>(pixel_block_) +
        Workspace::bytes<int64_t>(pixel_block_) + Workspace::bytes<bool>(pixel_block_) +
        2 * Workspace::bytes<const A*>(pixel_block_) + Workspace::bytes<A>(packed_size) +
        Workspace::bytes<A>(copied) + Workspace::bytes<A>(own_sums);
    const int64_t members = members_for(*call_.team, member_bytes, shared_bytes);
    Workspace workspace(shared_bytes + members * member_bytes);
    if (!workspace.ok()) return kOutOfMemory;
    runs_ = workspace.take<Run>(runs_count_);
    list_runs(grid_, g_.axis, merged_, runs_);
    A* sums = workspace.take<A>(shared_sums);
    Own* own = workspace.take<Own>(members);
    for (int64_t i = 0; i < members; ++i) {
      own[i].pixels = workspace.take<Pixel>(pixel_block_);
      own[i].offset = workspace.take<int64_t>(pixel_block_);
      own[i].inside = workspace.take<bool>(pixel_block_);
      own[i].source = workspace.take<const A*>(pixel_block_);
      own[i].cotangent = workspace.take<const A*>(pixel_block_);
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
  static constexpr int64_t kSumsBytes = kWorkspaceBytes / 2;
  static constexpr int64_t kOwnSumsBytes = 320 << 10;
  static constexpr int64_t kPixelBytes = 192 << 10;
  static constexpr int64_t kMostChannels = 4096;  // of a pixel that a block copies

  // A block of the result: panels of features, runs of taps, in-features (rows) within a run.
  struct Block {
    int64_t panel, panels, run, runs, row, rows;
  };
  struct Own {
    Pixel* pixels;
    int64_t* offset;  // of each pixel's sources, with whether all of them exist
    bool* inside;
    const A **source, **cotangent;
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
    pixel_block_ = clamp(kPixelBytes / pixel_bytes, 32, 256);
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
    for_each_pixel(grid_, first, count, [&](int64_t i, const Pixel& pixel) JAXCONV_LAMBDA {
      own.offset[i] = pixel.source;
      own.inside[i] = pixel.inside;
      if (!pixel.inside) own.pixels[i] = pixel;
    });
    pack(b, first, count, own.packed);
    // Source pointers are to the block's first channel, those of merged runs to the run's.
    const int64_t base = merged_ ? 0 : b.panel / group_panels_ * g_.group_in() + b.row;
    const int64_t span = merged_ ? run_length_ : smaller(channel_span(), g_.channels - base);
    FilterBlock<A> tile;
    tile.source = own.source;
    tile.cotangent = own.cotangent;
    for (int64_t e = 0; e < b.runs; ++e) {
      tile.count = list(runs_[b.run + e], count, base, span, own);
      if (tile.count == 0) continue;
      for (int64_t p = 0; p < b.panels; ++p) {
        const int64_t group = (b.panel + p) / group_panels_ - b.panel / group_panels_;
        tile.panel = p * count * width_;
        A* to = sums + (p * b.runs + e) * b.rows * width_;
        const int64_t tiles = ceil_div(b.rows, kernel_.rows);
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t row = b.rows * t / tiles, rows = b.rows * (t + 1) / tiles - row;
          tile.offset = group * g_.group_in() + row + (merged_ ? b.row : 0);
          tile.sums = to + row * width_;
          kernel_.run[rows](tile);
        }
      }
    }
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

  // Lists the pixels that have sources in the run, and where those are.
  int64_t list(const Run& run, int64_t count, int64_t base, int64_t span, const Own& own) const {
    const T* source = static_cast<const T*>(call_.source);
    const int64_t offset = run.offset + base;
    int64_t listed = 0;
    for (int64_t i = 0; i < count; ++i) {
      own.cotangent[listed] = own.packed + i * width_;
      if constexpr (!kWiden) {
        own.source[listed] = source + (own.offset[i] + offset);
        if (own.inside[i]) {
          ++listed;
          continue;
        }
      }
      const Pixel& pixel = own.pixels[i];
      if (!own.inside[i] && !reaches(pixel, run, merged_)) continue;
      A* copy = own.copied + listed * span;
      if (merged_ && !own.inside[i]) {
        copy_merged(source, pixel, run, g_.axis[2].kernel, g_.channels, copy);
        own.source[listed] = copy;
      } else if constexpr (kWiden) {
        copy_elements(source + (own.offset[i] + offset), span, copy);
        own.source[listed] = copy;
      }
      ++listed;
    }
    return listed;
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
          for (int64_t l = 0; l < lanes; ++l) {
            A total = from[l];
            for (int64_t part = 1; part < parts_; ++part) total += from[part * part_step + l];
            store_element(result + l, total);
          }
        }
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
