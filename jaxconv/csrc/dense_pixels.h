// Target pixels of a dense convolution and where their sources lie.

#pragma once

#include <cstdint>

#include "geometry.h"
#include "vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// The targets that see the same taps on all three axes, and the sources they gather from.
struct PixelGrid {
  Phase axis[3];
  int64_t batch;
  int64_t channels;  // of a source pixel

  int64_t pixels() const { return batch * axis[0].count * axis[1].count * axis[2].count; }
};

// A target: its place in the grid, the offset of its source for tap (0, 0, 0) (which may lie
// outside), and the taps that do exist.
struct Pixel {
  int64_t n, j[3];
  int64_t source;
  Range taps[3];
  bool inside;  // all of them exist
};

// Calls f(i, pixel) for `count` pixels of the grid, the first of them number `first`.
template <class F>
JAXCONV_INLINE void for_each_pixel(const PixelGrid& grid, int64_t first, int64_t count, F&& f) {
  Pixel pixel;
  pixel.n = first;
  for (int a = 2; a >= 0; --a) {
    pixel.j[a] = pixel.n % grid.axis[a].count;
    pixel.n /= grid.axis[a].count;
  }
  for (int64_t i = 0; i < count; ++i) {
    pixel.source = pixel.n;
    pixel.inside = true;
    for (int a = 0; a < 3; ++a) {
      const Phase& p = grid.axis[a];
      const int64_t at = p.source(pixel.j[a], 0);
      const bool inside = at >= 0 && at + (p.taps - 1) * p.per_tap < p.sources;
      pixel.source = pixel.source * p.sources + at;
      pixel.taps[a] = inside ? Range{0, p.taps} : valid_taps(p, pixel.j[a]);
      pixel.inside = pixel.inside && inside;
    }
    pixel.source *= grid.channels;
    f(i, pixel);
    for (int a = 2; a >= 0; --a) {
      if (++pixel.j[a] < grid.axis[a].count) break;
      pixel.j[a] = 0;
      if (a == 0) ++pixel.n;
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
  const int64_t columns = merged ? 1 : w->taps;
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
