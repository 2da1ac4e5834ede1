// The walk that the depthwise operators share: rows of targets, stretches of them, chunks of
// features, tiles.

#pragma once

#include <cstdint>

#include "isa/depthwise/row_cache.h"
#include "isa/depthwise/sources.h"
#include "isa/depthwise/tile.h"
#include "geometry.h"
#include "runtime/last_cache.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// A chunk of features is as wide as its sources and taps fit this share of the L1 cache: 7x7 over
// 96 channels at once took its sources from L2 and ran at half the speed of 32 at a time.
constexpr int64_t kChunkBytes = 32 << 10;

// What a stretch may take: pointers of the L1 cache, copies of the L2 cache.
constexpr int64_t kTableBytes = 32 << 10;
constexpr int64_t kStagedBytes = 256 << 10;

// Arrays that together take a quarter of the last cache, or this much, are asked for ahead of their
// use. It holds what a call alone takes, but not what a network's other layers took since, nor other
// devices: from 8 of 32 MiB on instead of 20, a MobileNetV1 training step went from 102 to 93 ms, a
// 3x3 step over two devices with 12 MiB each from 3.3 to 2.1. What it does hold is better not asked
// for: of 480 MiB on a Xeon, whose own prefetchers follow tiles, 3x3x3 2x16x32x32x64 took a tenth
// longer, 3x3 8x56x56x128 a fifth. Rows in use must fit the L2 cache, or what was asked for is
// gone when it is used.
constexpr int64_t kAheadBytes = int64_t{32} << 20;
constexpr int64_t kRowsBytes = 512 << 10;

// Results of calls whose arrays take more than the last cache, or than this, are written past the
// caches: what is overwritten is then not read first, nor what is needed pushed out. Of 3x3 forward
// on two threads that share 32 MiB, 32x56x56x128 (100 MB) took 2.6 ms instead of 3.9. Convolutions in
// a row, each of which reads what the last one wrote: 4x224x224x64 (100 MB) 3.4 ms instead of 5.0,
// 4x112x112x64 (25 MB) 0.7 instead of 0.6. Of the 480 MiB two cores kept some 80: causal k4
// 8x1024x768 (48 MiB, each call's result where that of the one before the last was) took 1.1 ms
// instead of 1.7, but in a row 3x3 16x56x56x128 1.9 instead of 1.3.
constexpr int64_t kStreamBytes = int64_t{48} << 20;

// What a band of rows of the planes that a 3-D kernel spans may take of the L2 cache.
constexpr int64_t kBandBytes = 256 << 10;

// Tile: what DepthwiseTiles<A> returns. Features are walked: `spread` of them for each source
// channel, in chunks of whole multiples of the convolution's multiplier. With `pairs`, for which
// the strides must be 1, two rows of targets at once that are one tap apart: neighbours, or with a
// dilation of 2 rows 0 and 2, 1 and 3, 4 and 6.
template <class T, class Tile>
class DepthwiseWalk {
  using A = typename Accumulator<T>::type;
  static constexpr int N = kLanes<A>;
  static constexpr bool kWiden = !std::is_same_v<T, A>;

 public:
  DepthwiseWalk(const Geometry& g, Operator op, int64_t spread, bool pairs)
      : axis_(g.axis),
        op_(op),
        batch_(g.batch),
        features_(g.features),
        target_rows_(pairs ? 2 : 1),
        spread_(spread) {
    channels_ = g.features / spread;
    const int64_t multiplier = g.features / g.channels;
    unit_ = N / greatest_common_divisor(N, multiplier) * multiplier;
    for (int a = 0; a < 3; ++a) {
      targets_[a] = op == Operator::kInputGrad ? axis_[a].in : axis_[a].out;
      sources_[a] = op == Operator::kInputGrad ? axis_[a].out : axis_[a].in;
      phases_[a] = phase_count(axis_[a], op);
    }
    size_units();
    choose_sources();
    size_stretches();
  }

  int64_t rows() const { return batch_ * targets_[0] * targets_[1]; }
  int64_t row_length() const { return targets_[2]; }
  int64_t row_step() const { return row_step_; }  // from one row of a pair to the other
  int64_t rows_ahead() const { return row_lattices() * target_rows_; }  // to where tiles look ahead
  int64_t units() const { return batch_ * targets_[0] * row_units_ * segments_; }
  int64_t kernel_rows() const { return axis_[0].kernel * axis_[1].kernel; }
  int64_t most_row_taps() const { return most_taps(axis_[2], op_); }
  int64_t unit() const { return unit_; }

  int64_t lanes() const { return lanes_; }  // of a staged pixel

  // Of sources and targets together.
  int64_t array_bytes() const {
    const int64_t targets = targets_[0] * targets_[1] * targets_[2] * features_;
    const int64_t sources = sources_[0] * sources_[1] * sources_[2] * channels_;
    return batch_ * (sources + targets) * static_cast<int64_t>(sizeof(T));
  }

  bool streams() const { return array_bytes() >= smaller(last_cache_bytes(), kStreamBytes); }

  // Workspace for the walk, and for each of its members.
  int64_t bytes() const {
    return Workspace::bytes<RowPhase>(row_phases_) + Workspace::bytes<Phase>(phases_[0]) +
           Workspace::bytes<Phase>(row_lattices()) + Workspace::bytes<A>(zeros_size());
  }
  int64_t member_bytes() const {
    return 4 * Workspace::bytes<int64_t>(source_rows()) + Workspace::bytes<const A*>(table_size_) +
           Workspace::bytes<A>(staged_size()) + (kept_ ? rows_.bytes() : 0);
  }

  // choose(taps, spacing, width, rows of targets) -> tile function.
  template <class Choose>
  void prepare(Workspace& workspace, Choose&& choose) {
    depth_ = workspace.take<Phase>(phases_[0]);
    height_ = workspace.take<Phase>(row_lattices());
    for (int64_t i = 0; i < phases_[0]; ++i) depth_[i] = phase(axis_[0], op_, i);
    for (int64_t i = 0; i < row_lattices(); ++i) {
      height_[i] = row_step_ > 1 ? lattice(phase(axis_[1], op_, 0), i) : phase(axis_[1], op_, i);
    }
    width_ = workspace.take<RowPhase>(row_phases_);
    RowPhase* next = width_;
    for_each_row_phase([&](const Phase& p) {
      next->phase = p;
      next->spacing = spacing(p);
      for (int width = 1; width <= kWidestTile; ++width) {
        for (int64_t rows = 1; rows <= target_rows_; ++rows) {
          next->tile[rows - 1][width - 1] = choose(p.taps, next->spacing, width, rows);
        }
      }
      ++next;
    });
    zeros_ = workspace.take<A>(zeros_size());
    std::memset(zeros_, 0, sizeof(A) * zeros_size());
  }

  struct Member {
    int64_t *source_row, *slot, *kernel_row[2];
    const A** table;
    A* staged;
    typename KeptRows<T>::Slots kept;
  };
  Member member(Workspace& workspace) const {
    Member m{};
    m.source_row = workspace.take<int64_t>(source_rows());
    m.slot = workspace.take<int64_t>(source_rows());
    for (int64_t*& row : m.kernel_row) row = workspace.take<int64_t>(source_rows());
    m.table = workspace.take<const A*>(table_size_);
    m.staged = workspace.take<A>(staged_size());
    if (features_ < N) std::memset(m.staged, 0, sizeof(A) * staged_size());  // the lanes past them
    if (kept_) m.kept = rows_.take(workspace);
    return m;
  }

  // For every stretch of units [begin, end) and every chunk of features [first, last), calls
  // open(stretch), then compute(stretch, tile, sources, target, width) for the tiles. Kernel rows
  // are `row_size` apart.
  template <class Open, class Compute>
  void visit(int64_t begin, int64_t end, const T* source, int64_t first, int64_t last,
             int64_t row_size, const Member& m, Open&& open, Compute&& compute) const {
    const FeatureCut cut(last - first, widest_, unit_, N);
    const T* before = nullptr;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t segment = unit % segments_, plane = targets_[0] * row_units_;
      const int64_t n = unit / segments_ / plane, walked = unit / segments_ % plane;
      const int64_t band = walked / (band_ * targets_[0]) * band_;
      const int64_t rows = smaller(band_, row_units_ - band);
      const int64_t d = (walked - band * targets_[0]) / rows;
      const int64_t unit_row = band + (walked - band * targets_[0]) % rows;
      const int64_t h = unit_row / row_step_ * row_step_ * target_rows_ + unit_row % row_step_;
      const T* image = source + n * sources_[0] * sources_[1] * sources_[2] * channels_;
      Stretch s;
      s.row = (n * targets_[0] + d) * targets_[1] + h;
      s.target_rows = target_rows_ == 2 && h + row_step_ < targets_[1] ? 2 : 1;
      list_rows(d, h, row_size, m, &s);
      look_ahead(h, &s);
      s.source_row = m.source_row;
      for (int q = 0; q < 2; ++q) s.kernel_row[q] = m.kernel_row[q];
      if (kept_) {
        if (image != before) rows_.forget(m.kept);
        keep_rows(s, image, first, last - first, m);
        before = image;
      }
      for (const RowPhase* part = width_; part < width_ + row_phases_; ++part) {
        s.phase = &part->phase;
        s.spacing = part->spacing;
        s.target = s.phase->count * segment / segments_;
        const int64_t end = s.phase->count * (segment + 1) / segments_;
        for (; s.target < end; s.target += s.targets) {
          s.targets = smaller(stretch_, end - s.target);
          list(s, image, m);
          for (int64_t c = 0; c < cut.count; ++c) {
            s.feature = first + cut.begin(c);
            s.features = cut.end(c) - cut.begin(c);
            stage(s, image, m);
            open(s);
            tiles(s, *part, kept_ ? cut.begin(c) : staged_ ? 0 : s.feature, m, compute);
          }
        }
      }
    }
  }

 private:
  // The targets of one row that see the same taps, and the tile functions that compute them.
  struct RowPhase {
    Phase phase;
    int64_t spacing;
    Tile tile[2][kWidestTile];  // [rows of targets - 1][width - 1]
  };

  // Of the targets of a phase that was cut into lattices, in columns.
  static int64_t spacing(const Phase& p) { return smaller(p.per_target / p.per_tap, p.taps); }

  template <class F>
  void for_each_row_phase(F&& f) const {
    for (int64_t i = 0; i < phases_[2]; ++i) {
      const Phase whole = phase(axis_[2], op_, i);
      for (int64_t j = 0; j < lattice_count(whole); ++j) f(lattice(whole, j));
    }
  }

  // Chooses what rows of targets are walked together, and where they are cut.
  void size_units() {
    // A 1-D convolution has few, long rows: cut them, for threads to share.
    const int64_t rows = this->rows();
    segments_ = rows >= 64 ? 1 : clamp(targets_[2] / 16, 1, ceil_div(64, larger(rows, 1)));
    row_step_ = target_rows_ == 2 ? lattice_count(phase(axis_[1], op_, 0)) : 1;
    row_units_ = targets_[1] / (target_rows_ * row_step_) * row_step_ +
                 smaller(row_step_, targets_[1] % (target_rows_ * row_step_));
    // Walking whole planes, a 3-D convolution finds each of its kernel's planes pushed out of the
    // L2 cache by the last; it walks bands of rows through all planes instead.
    const int64_t band = kBandBytes / (row_bytes() * axis_[0].kernel * axis_[1].stride);
    const int64_t longest = larger(targets_[1], axis_[1].kernel);
    band_ = axis_[0].kernel == 1 ? longest : clamp(band, axis_[1].kernel, longest);
    band_ = ceil_div(band_, target_rows_);
  }

  // Chooses whether tiles read sources in place, rows of copies, or a stretch's copies.
  void choose_sources() {
    rows_ = KeptRows<T>(axis_[0].kernel, row_span(), sources_[2], features_);
    const bool copied = kWiden || spread_.multiplier() > 1 || features_ < N;
    const bool crowded = op_ != Operator::kFilterGrad && pixel_bytes() % kSetsBytes == 0;
    kept_ = (copied || crowded) && segments_ == 1 && rows_.fit();
    staged_ = copied && !kept_;
    const bool in_place = !staged_ && !kept_;
    ahead_ = in_place && source_rows() * row_bytes() <= kRowsBytes &&
             array_bytes() >= smaller(last_cache_bytes() / 4, kAheadBytes);
  }

  int64_t pixel_bytes() const { return channels_ * static_cast<int64_t>(sizeof(T)); }
  int64_t row_bytes() const { return sources_[2] * pixel_bytes(); }

  // Rows of sources from the first to the last that a unit sees in a plane.
  int64_t row_span() const {
    int64_t span = 1;
    for (int64_t i = 0; i < phases_[1]; ++i) {
      const Phase p = phase(axis_[1], op_, i);
      span = larger(span, p.per_tap * (p.taps + target_rows_ - 2) + 1);
    }
    return span;
  }

  // Chooses the widest chunk and the longest stretch.
  void size_stretches() {
    int64_t widest_spacing = 1, longest = 1;
    row_phases_ = 0;
    for_each_row_phase([&](const Phase& p) {
      widest_spacing = larger(widest_spacing, spacing(p));
      longest = larger(longest, ceil_div(p.count, segments_));
      ++row_phases_;
    });
    const int64_t taps = most_row_taps();
    const auto columns = [&](int64_t targets) { return (targets - 1) * widest_spacing + taps; };
    const int64_t feature_bytes =
        kernel_rows() * (columns(kWidestTile) + taps) * static_cast<int64_t>(sizeof(A));
    widest_ = larger(kChunkBytes / feature_bytes / N, 2) * N;
    lanes_ = unaliased<A>(FeatureCut(features_, widest_, unit_, N).lanes);
    const int64_t column_bytes =
        source_rows() * (8 + (staged_ ? lanes_ * static_cast<int64_t>(sizeof(A)) : 0));
    const int64_t room = (staged_ ? kStagedBytes : kTableBytes) / column_bytes;
    stretch_ = clamp((room - taps) / widest_spacing + 1, 1, longest);
    // Whole tiles, and stretches of about one length.
    const int64_t even = round_up(ceil_div(longest, ceil_div(longest, stretch_)), kWidestTile);
    if (even < stretch_) stretch_ = even;
    table_size_ = source_rows() * columns(stretch_);
  }

  int64_t staged_size() const { return staged_ ? table_size_ * lanes_ : 0; }
  int64_t zeros_size() const { return larger(larger(channels_, lanes_), rows_.lanes()); }

  // Sets of rows of targets that see the same taps, each next one a tap further.
  int64_t row_lattices() const { return phases_[1] * row_step_; }

  // The most that targets see.
  int64_t source_rows() const { return axis_[0].kernel * (axis_[1].kernel + target_rows_ - 1); }

  // Lists the rows of sources that target row (d, h) sees, and the one below: those of the upper one
  // alone, of both, of the lower one alone.
  void list_rows(int64_t d, int64_t h, int64_t row_size, const Member& m, Stretch* s) const {
    const Phase& pd = depth_[d % phases_[0]];
    const Phase& ph = height_[h % row_lattices()];
    const int64_t jd = d / phases_[0], jh = h / row_lattices();
    const Range ud = valid_taps(pd, jd), upper = valid_taps(ph, jh);
    const Range lower = s->target_rows == 2 ? valid_taps(ph, jh + 1) : Range{0, 0};
    const auto kernel_row = [&](int64_t a, int64_t b) {
      const int64_t td = pd.tap_first + pd.tap_step * a, th = ph.tap_first + ph.tap_step * b;
      return (td * axis_[1].kernel + th) * row_size;
    };
    s->rows = 0;
    const auto list = [&](bool by_upper, bool by_lower) {
      const int64_t before = s->rows;
      for (int64_t a = ud.begin; a < ud.end; ++a) {
        for (int64_t b = 0; b < ph.taps + s->target_rows - 1; ++b) {
          if (upper.holds(b) != by_upper || lower.holds(b - 1) != by_lower) continue;
          const int64_t row = ph.source(jh, b), r = s->rows++;
          m.kernel_row[0][r] = kernel_row(a, b);
          m.kernel_row[1][r] = kernel_row(a, b - 1);
          if (kept_) m.slot[r] = rows_.slot(a, row);
          m.source_row[r] = (pd.source(jd, a) * sources_[1] + row) * sources_[2] * channels_;
        }
      }
      return s->rows - before;
    };
    s->upper = list(true, false);
    s->both = list(true, true);
    list(false, true);
  }

  // The row of targets that is rows_ahead() further, the next in this one's lattice, needs as many
  // rows of sources more as it lies further in them.
  void look_ahead(int64_t h, Stretch* s) const {
    if (!ahead_ || s->rows == 0) return;
    const Phase& p = height_[h % row_lattices()];
    const int64_t rows = p.per_target * target_rows_;
    s->ahead.rows = clamp(rows / p.per_tap, 1, s->rows);
    s->ahead.source = rows * sources_[2] * channels_;
  }

  // Lists where the columns of a stretch are: in the image, or where they are going to be staged.
  void list(const Stretch& s, const T* image, const Member& m) const {
    const int64_t columns = s.columns();
    if (kept_) {
      list_columns<A>(s, s.phase->per_tap * rows_.lanes(), zeros_, m.table,
                      [&](int64_t r, int64_t, int64_t at) {
                        return rows_.row(m.kept, m.slot[r]) + at * rows_.lanes();
                      });
    } else if (staged_) {
      list_columns<A>(s, lanes_, zeros_, m.table, [&](int64_t r, int64_t first, int64_t) {
        return m.staged + (r * columns + first) * lanes_;
      });
    } else if constexpr (!kWiden) {
      list_columns<A>(s, s.phase->per_tap * channels_, zeros_, m.table,
                      [&](int64_t r, int64_t, int64_t at) {
                        return image + (s.source_row[r] + at * channels_);
                      });
    }
  }

  // Copies those of a unit's rows that are not kept yet.
  void keep_rows(const Stretch& s, const T* image, int64_t feature, int64_t features,
                 const Member& m) const {
    const int64_t channel = feature / spread_.multiplier();
    const int64_t channels = features / spread_.multiplier();
    for (int64_t r = 0; r < s.rows; ++r) {
      rows_.keep(m.kept, m.slot[r], s.source_row[r], image + s.source_row[r] + channel, channels_,
                 channels, spread_);
    }
  }

  // Stages the stretch's chunk, if it has to be.
  void stage(const Stretch& s, const T* image, const Member& m) const {
    if (!staged_) return;
    const int64_t columns = s.columns(), step = s.phase->per_tap * channels_;
    const int64_t channel = s.feature / spread_.multiplier();
    const int64_t channels = s.features / spread_.multiplier();
    s.for_each_run([&](int64_t r, int64_t first, int64_t at, Range found) JAXCONV_LAMBDA {
      const T* from = image + (s.source_row[r] + at * channels_ + channel);
      A* to = m.staged + (r * columns + first) * lanes_;
      for (int64_t c = found.begin; c < found.end; ++c) {
        spread_.copy(from + c * step, channels, to + c * lanes_);
      }
    });
  }

  // A stretch is cut evenly into as few tiles as can be: 14 as 7 + 7.
  template <class Compute>
  void tiles(const Stretch& s, const RowPhase& part, int64_t offset, const Member& m,
             Compute&& compute) const {
    TileSources<A> sources;
    sources.columns = s.columns();
    sources.offset = offset;
    sources.rows = s.rows;
    sources.taps = s.phase->taps;
    sources.spacing = s.spacing;
    sources.features = larger(s.features, N);
    for (int64_t done = 0, width; done < s.targets; done += width) {
      const int64_t left = s.targets - done;
      width = ceil_div(left, ceil_div(left, kWidestTile));
      sources.table = m.table + done * s.spacing;
      compute(s, part.tile[s.target_rows - 1][width - 1], sources, s.target + done, width);
    }
  }

  const Axis* axis_;
  Operator op_;
  int64_t batch_, features_, channels_, unit_;  // channels of a source pixel
  int64_t target_rows_, row_step_, row_units_;
  Spread<T> spread_;
  KeptRows<T> rows_{1, 1, 1, 1};
  bool staged_, kept_, ahead_;
  int64_t segments_, row_phases_, band_, widest_, lanes_, stretch_, table_size_;
  int64_t targets_[3], sources_[3], phases_[3];
  Phase *depth_ = nullptr, *height_ = nullptr;
  RowPhase* width_ = nullptr;
  A* zeros_ = nullptr;
};

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
