// The walk that the depthwise operators share: rows of targets, chunks of channels, tiles.

#pragma once

#include <cstdint>

#include "depthwise_tile.h"
#include "geometry.h"
#include "workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

constexpr int kWidestTile = 8;

// A chunk of channels is as wide as its sources and taps fit this share of the L1 cache: 7x7 over
// 96 channels at once took its sources from L2 and ran at half the speed of 32 at a time.
constexpr int64_t kChunkBytes = 32 << 10;

// What a band of rows of the planes that a 3-D kernel spans may take of the L2 cache.
constexpr int64_t kBandBytes = 256 << 10;

// The targets of one row that see the same taps, and the tile functions that compute them.
template <class Tile>
struct RowPhase {
  Phase phase;
  int64_t ratio;
  Tile tile[kWidestTile][2];  // [width - 1][direct]
};

// What a tile is called with, beside what its operator adds.
template <class T, class Tile>
struct TileSite {
  Columns<T> sources;
  TileShape shape;
  const int64_t* kernel_row;  // of each valid row: where its taps begin
  const Phase* phase;
  Tile tile;
  int64_t row, target, width;  // the targets: `width` of row `row` from the phase's `target` on
  int64_t channel, channels;   // the chunk
};

template <class T, class Tile>
class DepthwiseWalk {
 public:
  // A row is cut evenly into as few tiles as can be, 14 as 7 + 7, or where there are not tiles of
  // `every_width`, into powers of two.
  DepthwiseWalk(const Geometry& g, Operator op, int64_t channels, bool every_width)
      : axis_(g.axis), op_(op), every_width_(every_width), batch_(g.batch), channels_(channels) {
    for (int a = 0; a < 3; ++a) {
      targets_[a] = op == Operator::kInputGrad ? axis_[a].in : axis_[a].out;
      sources_[a] = op == Operator::kInputGrad ? axis_[a].out : axis_[a].in;
      phases_[a] = phase_count(axis_[a], op);
    }
    row_phases_ = 0;
    for (int64_t i = 0; i < phases_[2]; ++i) {
      row_phases_ += lattice_count(phase(axis_[2], op, i));
    }
    // A 1-D convolution has few, long rows: cut them, for threads to share.
    const int64_t rows = this->rows();
    // Walking whole planes, a 3-D convolution finds each of its kernel's planes pushed out of the
    // L2 cache by the last; it walks bands of rows through all planes instead.
    const int64_t row_bytes = sources_[2] * channels * static_cast<int64_t>(sizeof(T));
    const int64_t band = kBandBytes / (row_bytes * axis_[0].kernel * axis_[1].stride);
    const int64_t longest = larger(targets_[1], axis_[1].kernel);
    band_ = axis_[0].kernel == 1 ? longest : clamp(band, axis_[1].kernel, longest);
    segments_ = rows >= 64 ? 1 : clamp(targets_[2] / 16, 1, ceil_div(64, larger(rows, 1)));
  }

  int64_t rows() const { return batch_ * targets_[0] * targets_[1]; }
  int64_t row_length() const { return targets_[2]; }
  int64_t units() const { return rows() * segments_; }

  // Workspace for the walk, and for each of its members.
  int64_t bytes() const {
    return Workspace::bytes<RowPhase<Tile>>(row_phases_) + Workspace::bytes<Phase>(phases_[0]) +
           Workspace::bytes<Phase>(phases_[1]) + Workspace::bytes<T>(channels_);
  }
  int64_t member_bytes() const {
    return 2 * Workspace::bytes<int64_t>(kernel_rows()) + Workspace::bytes<const T*>(table_size());
  }

  // choose(taps, ratio, width, direct) -> tile function.
  template <class Choose>
  void prepare(Workspace& workspace, Choose&& choose) {
    depth_ = workspace.take<Phase>(phases_[0]);
    height_ = workspace.take<Phase>(phases_[1]);
    for (int64_t i = 0; i < phases_[0]; ++i) depth_[i] = phase(axis_[0], op_, i);
    for (int64_t i = 0; i < phases_[1]; ++i) height_[i] = phase(axis_[1], op_, i);
    width_ = workspace.take<RowPhase<Tile>>(row_phases_);
    RowPhase<Tile>* next = width_;
    for (int64_t i = 0; i < phases_[2]; ++i) {
      const Phase whole = phase(axis_[2], op_, i);
      for (int64_t j = 0; j < lattice_count(whole); ++j, ++next) {
        next->phase = lattice(whole, j);
        next->ratio = next->phase.per_target / next->phase.per_tap;
        for (int width = 1; width <= kWidestTile; ++width) {
          for (int direct = 0; direct < 2; ++direct) {
            next->tile[width - 1][direct] =
                choose(next->phase.taps, next->ratio, width, direct != 0);
          }
        }
      }
    }
    zeros_ = workspace.take<T>(channels_);
    std::memset(static_cast<void*>(zeros_), 0, sizeof(T) * channels_);
  }

  struct Member {
    int64_t *source_row, *kernel_row;
    const T** table;
  };
  Member member(Workspace& workspace) const {
    Member m;
    m.source_row = workspace.take<int64_t>(kernel_rows());
    m.kernel_row = workspace.take<int64_t>(kernel_rows());
    m.table = workspace.take<const T*>(table_size());
    return m;
  }

  // Calls f(site) for every tile of units [begin, end) and channels [0, span), `chunk` at a time;
  // kernel rows are counted in `tap_size`.
  template <class F>
  void visit(int64_t begin, int64_t end, const T* source, int64_t span, int64_t chunk,
             int64_t tap_size, const Member& m, F&& f) const {
    for (int64_t unit = begin; unit < end; ++unit) {
      TileSite<T, Tile> site;
      const int64_t segment = unit % segments_, plane = targets_[0] * targets_[1];
      const int64_t n = unit / segments_ / plane, walked = unit / segments_ % plane;
      const int64_t band = walked / (band_ * targets_[0]) * band_;
      const int64_t rows = smaller(band_, targets_[1] - band);
      const int64_t d = (walked - band * targets_[0]) / rows;
      const int64_t h = band + (walked - band * targets_[0]) % rows;
      site.row = (n * targets_[0] + d) * targets_[1] + h;
      site.shape.rows = valid_rows(d, h, tap_size, m);
      site.kernel_row = m.kernel_row;
      site.sources.row = m.source_row;
      site.sources.table = m.table;
      const T* image = source + n * sources_[0] * sources_[1] * sources_[2] * channels_;
      for (site.channel = 0; site.channel < span; site.channel += chunk) {
        site.channels = smaller(chunk, span - site.channel);
        for (int64_t i = 0; i < row_phases_; ++i) {
          const RowPhase<Tile>& part = width_[i];
          site.target = part.phase.count * segment / segments_;
          int64_t left = part.phase.count * (segment + 1) / segments_ - site.target;
          site.phase = &part.phase;
          site.shape.taps = part.phase.taps;
          site.shape.ratio = part.ratio;
          for (; left > 0; left -= site.width, site.target += site.width) {
            site.width = width(left);
            const bool direct = locate(site, part, image, m);
            site.tile = part.tile[site.width - 1][direct];
            f(site);
          }
        }
      }
    }
  }

  // Channels to walk at once, of `span` that each have `multiplier` features.
  template <int N>
  int64_t chunk(int64_t span, int64_t multiplier) const {
    int64_t ratio = 1;
    for (int64_t i = 0; i < row_phases_; ++i) ratio = larger(ratio, width_[i].ratio);
    const int64_t columns =
        smaller((kWidestTile - 1) * ratio + axis_[2].kernel, kWidestTile * axis_[2].kernel);
    const int64_t bytes = kernel_rows() * (columns + axis_[2].kernel * multiplier) * sizeof(T);
    const int64_t widest = larger(kChunkBytes / bytes / N, 2) * N;
    return ceil_div(ceil_div(span, ceil_div(span, widest)), N) * N;
  }

 private:
  int64_t width(int64_t left) const {
    if (every_width_) return ceil_div(left, ceil_div(left, kWidestTile));
    return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
  }

  int64_t kernel_rows() const { return axis_[0].kernel * axis_[1].kernel; }
  int64_t table_size() const {
    return kernel_rows() * (kWidestTile * axis_[2].kernel + (kWidestTile - 1) * kSharedRatio);
  }

  // Lists the kernel rows that target row (d, h) sees.
  int64_t valid_rows(int64_t d, int64_t h, int64_t tap_size, const Member& m) const {
    const Phase& pd = depth_[d % phases_[0]];
    const Phase& ph = height_[h % phases_[1]];
    const int64_t jd = d / phases_[0], jh = h / phases_[1];
    const Range ud = valid_taps(pd, jd), uh = valid_taps(ph, jh);
    int64_t r = 0;
    for (int64_t a = ud.begin; a < ud.end; ++a) {
      for (int64_t b = uh.begin; b < uh.end; ++b, ++r) {
        m.source_row[r] =
            (pd.source(jd, a) * sources_[1] + ph.source(jh, b)) * sources_[2] * channels_;
        const int64_t td = pd.tap_first + pd.tap_step * a, th = ph.tap_first + ph.tap_step * b;
        m.kernel_row[r] = (td * axis_[1].kernel + th) * axis_[2].kernel * tap_size;
      }
    }
    return r;
  }

  // Finds the columns of a tile; false where some lie in the padding, so that it needs the table.
  bool locate(TileSite<T, Tile>& site, const RowPhase<Tile>& part, const T* image,
              const Member& m) const {
    const Phase& p = part.phase;
    const int64_t first = p.source(site.target, 0);
    const int64_t last = p.source(site.target + site.width - 1, p.taps - 1);
    if (first >= 0 && last < p.sources) {
      site.sources.base = image + first * channels_ + site.channel;
      site.sources.column_step = p.per_tap * channels_;
      return true;
    }
    const bool shared = part.ratio <= kSharedRatio;
    const int64_t groups = shared ? 1 : site.width;
    const int64_t columns = shared ? (site.width - 1) * part.ratio + p.taps : p.taps;
    site.sources.columns = groups * columns;
    site.sources.offset = site.channel;
    const T** entry = m.table;
    for (int64_t r = 0; r < site.shape.rows; ++r) {
      for (int64_t g = 0; g < groups; ++g) {
        for (int64_t c = 0; c < columns; ++c) {
          const int64_t at = first + g * p.per_target + c * p.per_tap;
          const bool inside = at >= 0 && at < p.sources;
          *entry++ = inside ? image + m.source_row[r] + at * channels_ : zeros_;
        }
      }
    }
    return false;
  }

  const Axis* axis_;
  Operator op_;
  bool every_width_;
  int64_t batch_, channels_;  // of a source pixel
  int64_t segments_, row_phases_, band_;
  int64_t targets_[3], sources_[3], phases_[3];
  Phase *depth_ = nullptr, *height_ = nullptr;
  RowPhase<Tile>* width_ = nullptr;
  T* zeros_ = nullptr;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
