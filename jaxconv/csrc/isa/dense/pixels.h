// The target pixels of a dense convolution and the sources that each of them reads.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// A grid of target pixels, and of the source pixels that they gather from.
struct PixelGrid {
  Phase axis[3];
  int64_t batch;
  int64_t channels;         // of a source pixel
  int64_t targets[3];       // extents of the target array
  int64_t target_channels;  // of a target pixel

  int64_t pixels() const { return batch * axis[0].count * axis[1].count * axis[2].count; }
  int64_t taps() const { return axis[0].taps * axis[1].taps * axis[2].taps; }

  // Whether every tap of every pixel has a source, none of them in the padding.
  bool all_taps_have_sources() const {
    for (const Phase& p : axis) {
      if (p.taps > 0 && (p.origin < 0 || p.source(p.count - 1, p.taps - 1) >= p.sources)) {
        return false;
      }
    }
    return true;
  }
};

// A pixel of a grid: the offset at which it is written, the offset of its source for tap (0, 0, 0)
// (which may lie outside the source array), and the taps that have sources.
struct Pixel {
  int64_t target, source;
  Range taps[3];
};

// Calls f(i, pixel) for i in [0, count), where pixel i is number first + i of the grid.
template <class F>
JAXCONV_INLINE void for_each_pixel(const PixelGrid& grid, int64_t first, int64_t count, F&& f) {
  const Phase& w = grid.axis[2];
  int64_t n = first, j[3];
  for (int a = 2; a >= 0; --a) {
    j[a] = n % grid.axis[a].count;
    n /= grid.axis[a].count;
  }
  Pixel pixel;
  for (int64_t i = 0; i < count; j[2] = 0) {
    int64_t source = n, target = n;  // of this row of pixels
    for (int a = 0; a < 2; ++a) {
      const Phase& p = grid.axis[a];
      source = source * p.sources + p.source(j[a], 0);
      target = target * grid.targets[a] + p.first + p.step * j[a];
      pixel.taps[a] = valid_taps(p, j[a]);
    }
    for (; i < count && j[2] < w.count; ++i, ++j[2]) {
      pixel.source = (source * w.sources + w.source(j[2], 0)) * grid.channels;
      pixel.target = (target * grid.targets[2] + w.first + w.step * j[2]) * grid.target_channels;
      pixel.taps[2] = valid_taps(w, j[2]);
      f(i, pixel);
    }
    if (++j[1] == grid.axis[1].count) {
      j[1] = 0;
      if (++j[0] == grid.axis[0].count) {
        j[0] = 0;
        ++n;
      }
    }
  }
}

// A part of the reduction that is contiguous in memory: the channels of one tap, or if taps are
// `merged`, the channels of all taps of one row.
struct Run {
  int64_t tap[3];
  int64_t offset;  // of its sources, relative to Pixel::source
  int64_t first;   // its first tap, as an index into all taps of the kernel
};

// Lists the runs of a grid and returns their number; `kernel` holds the extents of the kernel.
JAXCONV_INLINE int64_t list_runs(const PixelGrid& grid, const Axis* kernel, bool merged, Run* run) {
  const Phase *d = grid.axis, *h = d + 1, *w = d + 2;
  const int64_t columns = merged ? smaller(w->taps, 1) : w->taps;
  const Run* const first = run;
  for (int64_t a = 0; a < d->taps; ++a) {
    for (int64_t b = 0; b < h->taps; ++b) {
      for (int64_t c = 0; c < columns; ++c, ++run) {
        run->tap[0] = a;
        run->tap[1] = b;
        run->tap[2] = c;
        run->offset =
            ((a * d->per_tap * h->sources + b * h->per_tap) * w->sources + c * w->per_tap) *
            grid.channels;
        const int64_t depth = d->tap_first + a * d->tap_step;
        const int64_t height = h->tap_first + b * h->tap_step;
        const int64_t width = w->tap_first + c * w->tap_step;
        run->first = (depth * kernel[1].kernel + height) * kernel[2].kernel + width;
      }
    }
  }
  return run - first;
}

// Whether the pixel has a source in the run. For a merged run: whether its row of taps exists.
JAXCONV_INLINE bool reaches(const Pixel& pixel, const Run& run, bool merged) {
  for (int a = 0; a < (merged ? 2 : 3); ++a) {
    if (run.tap[a] < pixel.taps[a].begin || run.tap[a] >= pixel.taps[a].end) return false;
  }
  return true;
}

// Copies a merged run of `taps` taps as accumulators, with zeros for the taps outside `valid`,
// which lie in the padding.
template <class T, class A>
JAXCONV_INLINE void copy_merged(const T* from, Range valid, int64_t taps, int64_t channels, A* to) {
  const int64_t begin = valid.begin * channels, end = valid.end * channels;
  for (int64_t c = 0; c < begin; ++c) to[c] = 0;
  if (begin < end) copy_elements(from + begin, end - begin, to + begin);
  for (int64_t c = larger(begin, end); c < taps * channels; ++c) to[c] = 0;
}

// With fewer channels than this, runs of one tap would be too short for the inner loops. The taps
// of a row are then merged into one run, as their sources are adjacent in memory.
constexpr int64_t kMinUnmergedChannels = 32;
// Merged runs are copied at the borders of the image, which bounds their length.
constexpr int64_t kMaxMergedRunLength = 1024;

JAXCONV_INLINE bool merges_taps(const Geometry& g) {
  return g.groups == 1 && g.axis[2].dilation == 1 && g.channels < kMinUnmergedChannels &&
         g.channels * g.axis[2].kernel <= kMaxMergedRunLength;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
