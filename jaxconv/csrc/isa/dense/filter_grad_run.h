// The run step of a filter gradient: sections of the result summed over parts of the pixels, shared
// among threads.

#pragma once

#include <cstdint>
#include <cstring>

#include "isa/dense/filter_grad_packing.h"
#include "isa/dense/filter_grad_plan.h"
#include "isa/dense/filter_grad_segments.h"
#include "isa/vec.h"
#include "isa/workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T>
class FilterGradRun {
  using A = typename Accumulator<T>::type;
  using Memory = SectionMemory<A>;

 public:
  FilterGradRun(const FilterGradPlan<T>& plan, int64_t members, Workspace& workspace)
      : plan_(plan),
        lister_(plan),
        members_(members),
        runs_(workspace.take<Run>(plan.runs)),
        sums_(workspace.take<A>(plan.shared_sums)),
        memory_(workspace.take<Memory>(members)) {
    list_runs(plan.grid, plan.geometry.axis, plan.merged, runs_);
    for (int64_t i = 0; i < members; ++i) {
      memory_[i].rows = workspace.take<PixelRow>(plan.division.chunk_pixels);
      memory_[i].segments = workspace.take<Segment<A>>(plan.division.chunk_pixels);
      memory_[i].packed = workspace.take<A>(plan.packed_size);
      memory_[i].copied = workspace.take<A>(plan.copied_size);
      memory_[i].sums = workspace.take<A>(plan.own_sums);
    }
  }

  void run() const {
    const int64_t parts = plan_.division.parts;
    share(*plan_.call.team, parts * plan_.sections, members_, [&](int64_t piece, int64_t member) {
      const Section section = plan_.section(piece / parts);
      A* sums = parts > 1 ? sums_ + piece * plan_.section_size : memory_[member].sums;
      sum_part(section, piece % parts, memory_[member], sums);
      if (parts == 1) finish(section, sums);
    });
    if (parts > 1) add_all_parts();
  }

 private:
  void add_all_parts() const {
    const int64_t part_sums = plan_.division.parts * plan_.section_size;
    const bool small = plan_.sections * part_sums / plan_.tiles.lanes < kPieceWork;
    share(*plan_.call.team, plan_.sections, small ? 1 : members_,
          [&](int64_t i, int64_t) { finish(plan_.section(i), sums_ + i * part_sums); });
  }

  // Sums one section over the pixels of one part, a chunk at a time.
  void sum_part(const Section& s, int64_t part, const Memory& memory, A* sums) const {
    std::memset(sums, 0, sizeof(A) * plan_.section_size);
    const int64_t pixels = plan_.grid.pixels(), parts = plan_.division.parts;
    const int64_t step = plan_.division.chunk_pixels, end = pixels * (part + 1) / parts;
    for (int64_t p = pixels * part / parts; p < end; p += step) {
      add_chunk(s, p, smaller(step, end - p), memory, sums);
    }
  }

  // Adds the products of pixels [first, first + count).
  void add_chunk(const Section& s, int64_t first, int64_t count, const Memory& memory,
                 A* sums) const {
    const int64_t channels = plan_.geometry.group_in();
    const int64_t rows = lister_.list_rows(first, count, memory.rows);
    pack_cotangents(plan_, s, first, count, memory.packed);
    // Segments start at the first channel of the section, or for merged runs, of the run.
    const int64_t base = plan_.merged ? 0 : plan_.panel_group(s.panel) * channels + s.row;
    const int64_t span = plan_.merged ? plan_.run_length
                                      : smaller(plan_.channel_span, plan_.geometry.channels - base);
    FilterGradTileArgs<A> args;
    args.segments = memory.segments;
    for (int64_t e = 0; e < s.runs; ++e) {
      args.count = lister_.list_segments(runs_[s.run + e], rows, base, span, memory);
      if (args.count == 0) continue;
      for (int64_t p = 0; p < s.panels; ++p) {
        const int64_t group = plan_.panel_group(s.panel + p) - plan_.panel_group(s.panel);
        args.panel = p * count * plan_.panel_width;
        args.offset = group * channels + (plan_.merged ? s.row : 0);
        run_tiles(s.rows, sums + (p * s.runs + e) * s.rows * plan_.panel_width, args);
      }
    }
  }

  // Runs tiles of about equal height over all rows; `args` holds the offset of the first row.
  void run_tiles(int64_t rows, A* sums, FilterGradTileArgs<A> args) const {
    const int64_t tiles = ceil_div(rows, plan_.tiles.rows), offset = args.offset;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t row = rows * t / tiles, tile_rows = rows * (t + 1) / tiles - row;
      args.offset = offset + row;
      args.sums = sums + row * plan_.panel_width;
      plan_.tiles.run[tile_rows](args);
    }
  }

  // Writes a section of the result: the sums of its parts, which lie one after the other.
  void finish(const Section& s, const A* sums) const {
    const Geometry& g = plan_.geometry;
    for (int64_t p = 0; p < s.panels; ++p) {
      const int64_t lanes = plan_.panel_lanes(s.panel + p);
      const int64_t feature = plan_.first_feature(s.panel + p);
      for (int64_t e = 0; e < s.runs; ++e) {
        T* result = static_cast<T*>(plan_.call.result) +
                    (runs_[s.run + e].first * g.group_in() + s.row) * g.features + feature;
        const A* from = sums + (p * s.runs + e) * s.rows * plan_.panel_width;
        for (int64_t r = 0; r < s.rows; ++r, result += g.features, from += plan_.panel_width) {
          add_parts(from, lanes, result);
        }
      }
    }
  }

  void add_parts(const A* from, int64_t lanes, T* result) const {
    constexpr int N = kVectorBytes / sizeof(A);
    const int64_t parts = plan_.division.parts, part_step = plan_.section_size;
    for (int64_t l = 0; l < lanes; l += N) {
      if (lanes - l < N) {
        auto total = load<A, N, true>(from + l, lanes - l);
        for (int64_t part = 1; part < parts; ++part) {
          total += load<A, N, true>(from + part * part_step + l, lanes - l);
        }
        store<A, N, true>(result + l, total, lanes - l);
      } else {
        auto total = load<A, N>(from + l);
        for (int64_t part = 1; part < parts; ++part) {
          total += load<A, N>(from + part * part_step + l);
        }
        store<A, N>(result + l, total);
      }
    }
  }

  const FilterGradPlan<T>& plan_;
  const SegmentLister<T> lister_;
  const int64_t members_;
  Run* const runs_;
  A* const sums_;
  Memory* const memory_;
};

template <class T>
const char* dense_filter_grad(const Call& call) {
  const FilterGradPlan<T> plan(call);
  const int64_t members = members_for(*call.team, plan.member_bytes(), plan.shared_bytes());
  Workspace workspace(plan.shared_bytes() + members * plan.member_bytes());
  if (!workspace.ok()) return kOutOfMemory;
  FilterGradRun<T>(plan, members, workspace).run();
  return nullptr;
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
