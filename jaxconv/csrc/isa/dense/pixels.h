// Target pixels of a dense convolution and where their sources lie.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// Targets, and the sources they gather from.
struct PixelGrid {
  Phase axis[3];
  int64_t batch;
  int64_t channels;         // of a source pixel
  int64_t targets[3];       // extents
  int64_t target_channels;  // of a target pixel

  int64_t pixels() const { return batch * axis[0].count * axis[1].count * axis[2].count; }
  int64_t taps() const { return axis[0].taps * axis[1].taps * axis[2].taps; }

  // Whether every tap of every pixel has a source.
  bool whole() const {
    for (const Phase& p : axis) {
      if (p.taps > 0 && (p.origin < 0 || p.source(p.count - 1, p.taps - 1) >= p.sources)) {
        return false;
      }
    }
    return true;
  }
};

// A pixel of a grid: where it is written, the offset of its source for tap (0, 0, 0) (which may lie
// outside), and the taps that do exist.
struct Pixel {
  int64_t target, source;
  Range taps[3];
};

// Calls f(i, pixel) for `count` pixels of the grid, the first of them number `first`.
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
    int64_t source = n, target = n;  // of the row
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

// A stretch of the reduction that is contiguous in memory: the channels of one tap, or of all the
// neighbouring taps of a row where those are `merged`.
struct Run {
  int64_t tap[3];
  int64_t offset;  // of its sources from Pixel::source
  int64_t first;   // tap of the kernel, of which all come in memory order
};

// Lists the runs of a grid; `kernel` holds the extents. Returns how many.
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

// Whether the pixel has a source in the run; of a merged run, whether its row of taps exists.
JAXCONV_INLINE bool reaches(const Pixel& pixel, const Run& run, bool merged) {
  for (int a = 0; a < (merged ? 2 : 3); ++a) {
    if (run.tap[a] < pixel.taps[a].begin || run.tap[a] >= pixel.taps[a].end) return false;
  }
  return true;
}

// Copies a merged run of `taps` taps as accumulators, zeros where the taps lie in the padding.
template <class T, class A>
JAXCONV_INLINE void copy_merged(const T* from, Range found, int64_t taps, int64_t channels, A* to) {
  const int64_t begin = found.begin * channels, end = found.end * channels;
  for (int64_t c = 0; c < begin; ++c) to[c] = 0;
  if (begin < end) copy_elements(from + begin, end - begin, to + begin);
  for (int64_t c = larger(begin, end); c < taps * channels; ++c) to[c] = 0;
}

// Neighbouring taps of few channels are neighbours in memory too; runs shorter than this would
// leave the inner loops too little to do. Copies at the border bound the longest.
constexpr int64_t kMergedChannels = 32;
constexpr int64_t kMergedRun = 1024;

JAXCONV_INLINE bool merges(const Geometry& g) {
  return g.groups == 1 && g.axis[2].dilation == 1 && g.channels < kMergedChannels &&
         g.channels * g.axis[2].kernel <= kMergedRun;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
