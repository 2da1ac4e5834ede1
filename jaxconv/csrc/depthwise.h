// Depthwise convolution: every group has one in-feature. No padded copy and no patches: tiles read
// their sources in place (depthwise_tile.h), rows of them shared out to threads (depthwise_walk.h).

#pragma once

#include <cstdint>

#include "depthwise_tile.h"
#include "depthwise_walk.h"
#include "workspace.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T, class O, Lanes L>
struct GatherChoice {
  using A = typename Accumulator<T>::type;
  static constexpr int N = kVectorBytes / sizeof(A);
  template <int P, int K, int R, bool Direct>
  struct At {
    static void run(const GatherTile<T, O>& t) { gather_tile<T, O, A, N, L, P, K, R, Direct>(t); }
  };
};

template <class T, Lanes L>
struct FilterChoice {
  using A = typename Accumulator<T>::type;
  static constexpr int N = kVectorBytes / sizeof(A);
  template <int P, int K, int R, bool Direct>
  struct At {
    static void run(const FilterTile<T, A>& t) { filter_tile<T, A, N, L, P, K, R, Direct>(t); }
  };
};

template <class T, Lanes L>
constexpr bool kSpecialised =
    std::is_same_v<T, float> && L == Lanes::kPlain &&
    (kVectorBytes >= 32 || kVectorRegisters == 32);

template <class Tile, template <int, int, int, bool> class Choice, bool Specialised>
Tile choose_tile_of_width(int64_t taps, int64_t ratio, int width, bool direct) {
  if constexpr (Specialised) {
    switch (width) {
      case 3: return choose_tile<Tile, Choice, 3, false>(taps, ratio, direct);
      case 5: return choose_tile<Tile, Choice, 5, true>(taps, ratio, direct);
      case 6: return choose_tile<Tile, Choice, 6, true>(taps, ratio, direct);
      case 7: return choose_tile<Tile, Choice, 7, true>(taps, ratio, direct);
      default: break;
    }
  }
  switch (width) {
    case 1: return choose_tile<Tile, Choice, 1, false>(taps, ratio, direct);
    case 2: return choose_tile<Tile, Choice, 2, false>(taps, ratio, direct);
    case 4: return choose_tile<Tile, Choice, 4, Specialised>(taps, ratio, direct);
    case 8: return choose_tile<Tile, Choice, 8, Specialised>(taps, ratio, direct);
    default: return nullptr;
  }
}

// Vector operations of a depthwise call, memory traffic included.
template <class T>
JAXCONV_INLINE int64_t depthwise_work(const Geometry& g) {
  const int64_t vector = kVectorBytes / static_cast<int64_t>(sizeof(T));
  const int64_t macs = g.batch * g.outputs() * g.taps() * g.features;
  const int64_t moved = g.batch * (g.inputs() * g.channels + g.outputs() * g.features);
  return macs / vector + 4 * moved / vector;
}

// Sums each channel's `multiplier` neighbouring features.
template <class T, class A>
void fold_features(const A* features, T* channels, int64_t count, int64_t multiplier) {
  for (int64_t c = 0; c < count; ++c) {
    A sum = features[c * multiplier];
    for (int64_t m = 1; m < multiplier; ++m) sum += features[c * multiplier + m];
    store_element(channels + c, sum);
  }
}

// Fold: an input gradient with a multiplier is computed as one value for each feature, and those
// of a channel are added afterwards.
template <class T, Lanes L, bool Fold>
const char* depthwise_gather(const Call& call) {
  using A = typename Accumulator<T>::type;
  using O = std::conditional_t<Fold, A, T>;
  constexpr int N = kVectorBytes / sizeof(A);
  using Tile = void (*)(const GatherTile<T, O>&);
  using Walk = DepthwiseWalk<T, Tile>;
  const Geometry& g = call.geometry;
  const bool gradient = call.op == Operator::kInputGrad;
  const int64_t source_channels = gradient ? g.features : g.channels;
  const int64_t target_channels = gradient ? g.channels : g.features;
  const int64_t span = Fold ? g.features : g.channels;  // channels that a tile walks
  const int64_t multiplier = g.features / span;
  const int64_t fold_size = Fold ? 8 * g.features : 0;

  struct Own {
    typename Walk::Member walk;
    A* fold;
  };
  Walk walk(g, call.op, source_channels, kSpecialised<T, L>);
  const int64_t member_bytes =
      walk.member_bytes() + Workspace::bytes<A>(fold_size) + Workspace::bytes<Own>(1);
  const int64_t shared_bytes = walk.bytes();
  const int64_t members = members_for(*call.team, member_bytes, shared_bytes);
  Workspace workspace(shared_bytes + members * member_bytes);
  if (!workspace.ok()) return kOutOfMemory;
  walk.prepare(workspace, [](int64_t taps, int64_t ratio, int width, bool direct) {
    return choose_tile_of_width<Tile, GatherChoice<T, O, L>::template At, kSpecialised<T, L>>(
        taps, ratio, width, direct);
  });
  Own* own = workspace.take<Own>(members);
  for (int64_t i = 0; i < members; ++i) {
    own[i].walk = walk.member(workspace);
    own[i].fold = workspace.take<A>(fold_size);
  }

  const int64_t units = walk.units();
  const int64_t pieces = pieces_for(depthwise_work<T>(g), units);
  const int64_t chunk = Fold ? span : walk.template chunk<N>(span, multiplier);
  share(*call.team, pieces, members, [&](int64_t piece, int64_t member) {
    A* fold = own[member].fold;
    const auto compute = [&](const TileSite<T, Tile>& site) JAXCONV_LAMBDA {
      const Phase& p = *site.phase;
      const int64_t pixel = site.row * walk.row_length() + p.first + p.step * site.target;
      T* target = static_cast<T*>(call.result) + pixel * target_channels +
                  site.channel * target_channels / span;
      GatherTile<T, O> t;
      t.sources = site.sources;
      t.shape = site.shape;
      t.shape.channels = site.channels;
      t.shape.multiplier = multiplier;
      t.shape.whole = span >= N;
      t.weights = static_cast<const T*>(call.operand) + p.tap_first * g.features +
                  site.channel * multiplier;
      t.weight_row = site.kernel_row;
      t.tap_step = p.tap_step * g.features;
      if constexpr (Fold) {
        t.targets = fold;
        t.target_step = g.features;
      } else {
        t.targets = target;
        t.target_step = p.step * target_channels;
      }
      site.tile(t);
      if constexpr (Fold) {
        for (int64_t j = 0; j < site.width; ++j) {
          fold_features(fold + j * g.features, target + j * p.step * target_channels,
                        site.channels * g.channels / g.features, g.features / g.channels);
        }
      }
    };
    walk.visit(units * piece / pieces, units * (piece + 1) / pieces,
               static_cast<const T*>(call.source), span, chunk, g.features, own[member].walk,
               compute);
  });
  return nullptr;
}

// How the filter gradient is cut. Channels are cut into chunks, and rows into parts whose sums are
// added at the end, in order. All by shape alone.
struct FilterCut {
  int64_t chunk;   // channels, a multiple of the vector but for the last
  int64_t chunks;
  int64_t parts;
  int64_t at_once;  // chunks whose sums fit the workspace together
};

template <class A, int N>
JAXCONV_INLINE FilterCut cut_filter(const Geometry& g, int64_t units, int64_t pieces) {
  const int64_t multiplier = g.features / g.channels;
  const auto sums_bytes = [&](int64_t channels) {
    const int64_t blocks = block_count<N>(channels, multiplier, g.channels >= N);
    return g.taps() * blocks * N * static_cast<int64_t>(sizeof(A));
  };
  const int64_t budget = kWorkspaceBytes / 2;
  // The sums of a chunk are read and written once a tile: keep them in half of the L2 cache.
  FilterCut cut;
  cut.chunk = g.channels;
  while (cut.chunk > 2 * N && sums_bytes(cut.chunk) > (256 << 10)) {
    cut.chunk = ceil_div(ceil_div(cut.chunk, 2), N) * N;
  }
  cut.chunks = ceil_div(g.channels, cut.chunk);
  const int64_t wanted = ceil_div(smaller(pieces, 16), cut.chunks);
  cut.parts = clamp(budget / (sums_bytes(cut.chunk) * cut.chunks), 1, smaller(wanted, units));
  cut.at_once = clamp(budget / (sums_bytes(cut.chunk) * cut.parts), 1, cut.chunks);
  return cut;
}

template <class T, Lanes L>
const char* depthwise_filter_grad(const Call& call) {
  using A = typename Accumulator<T>::type;
  using Tile = void (*)(const FilterTile<T, A>&);
  using Walk = DepthwiseWalk<T, Tile>;
  constexpr int N = kVectorBytes / sizeof(A);
  const Geometry& g = call.geometry;
  const int64_t multiplier = g.features / g.channels;
  Walk walk(g, call.op, g.channels, kSpecialised<T, L>);
  const int64_t units = walk.units();
  const FilterCut cut = cut_filter<A, N>(g, units, pieces_for(depthwise_work<T>(g), 64));
  // Of the sums of one tap.
  const int64_t lanes = block_count<N>(cut.chunk, multiplier, g.channels >= N) * N;
  const int64_t sums_size = g.taps() * lanes;

  const int64_t member_bytes =
      walk.member_bytes() + Workspace::bytes<typename Walk::Member>(1);
  const int64_t shared_bytes =
      walk.bytes() + Workspace::bytes<A>(cut.at_once * cut.parts * sums_size);
  const int64_t members = members_for(*call.team, member_bytes, shared_bytes);
  Workspace workspace(shared_bytes + members * member_bytes);
  if (!workspace.ok()) return kOutOfMemory;
  walk.prepare(workspace, [](int64_t taps, int64_t ratio, int width, bool direct) {
    return choose_tile_of_width<Tile, FilterChoice<T, L>::template At, kSpecialised<T, L>>(
        taps, ratio, width, direct);
  });
  auto* own = workspace.take<typename Walk::Member>(members);
  for (int64_t i = 0; i < members; ++i) own[i] = walk.member(workspace);
  A* all_sums = workspace.take<A>(cut.at_once * cut.parts * sums_size);

  const int64_t tile_chunk = walk.template chunk<N>(cut.chunk, multiplier);
  for (int64_t first = 0; first < cut.chunks; first += cut.at_once) {
    const int64_t chunks = smaller(cut.at_once, cut.chunks - first);
    const auto channels_of = [&](int64_t chunk) {
      return smaller(cut.chunk, g.channels - (first + chunk) * cut.chunk);
    };
    share(*call.team, chunks * cut.parts, members, [&](int64_t piece, int64_t member) {
      const int64_t chunk = piece / cut.parts, part = piece % cut.parts;
      const int64_t channel = (first + chunk) * cut.chunk;
      A* sums = all_sums + piece * sums_size;
      std::memset(sums, 0, sizeof(A) * sums_size);
      const auto accumulate = [&](const TileSite<T, Tile>& site) JAXCONV_LAMBDA {
        const Phase& p = *site.phase;
        FilterTile<T, A> t;
        const int64_t pixel = site.row * walk.row_length() + p.first + p.step * site.target;
        t.sources = site.sources;
        t.sources.base += channel;
        t.sources.offset += channel;
        t.shape = site.shape;
        t.shape.channels = site.channels;
        t.shape.multiplier = multiplier;
        t.shape.whole = g.channels >= N;
        t.cotangents = static_cast<const T*>(call.operand) + pixel * g.features +
                       (channel + site.channel) * multiplier;
        t.cotangent_step = p.step * g.features;
        t.sums = sums + p.tap_first * lanes + site.channel * multiplier;
        t.sums_row = site.kernel_row;
        t.tap_step = p.tap_step * lanes;
        site.tile(t);
      };
      walk.visit(units * part / cut.parts, units * (part + 1) / cut.parts,
                 static_cast<const T*>(call.source), channels_of(chunk), tile_chunk, lanes,
                 own[member], accumulate);
    });
    const int64_t sweep = g.taps() * lanes * cut.parts * chunks / N;
    const int64_t pieces = pieces_for(sweep, g.taps());
    share(*call.team, pieces, members, [&](int64_t piece, int64_t) {
      for (int64_t t = g.taps() * piece / pieces; t < g.taps() * (piece + 1) / pieces; ++t) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
          const A* sums = all_sums + chunk * cut.parts * sums_size + t * lanes;
          T* result = static_cast<T*>(call.result) + t * g.features +
                      (first + chunk) * cut.chunk * multiplier;
          for_each_block<N, L>(channels_of(chunk), multiplier, g.channels >= N,
                               [&](const Block<N>& b) JAXCONV_LAMBDA {
                                 Vec<A, N> total = load<A, N>(sums + b.ordinal * N);
                                 for (int64_t part = 1; part < cut.parts; ++part) {
                                   total += load<A, N>(sums + part * sums_size + b.ordinal * N);
                                 }
                                 store_features<T, A, N, L>(result, total, b);
                               });
        }
      }
    });
  }
  return nullptr;
}

template <class T>
const char* depthwise(const Call& call) {
  constexpr int64_t N = kVectorBytes / sizeof(typename Accumulator<T>::type);
  const Geometry& g = call.geometry;
  const bool whole = g.channels >= N;
  const bool expand = g.features != g.channels;
  switch (call.op) {
    case Operator::kConv:
      if (expand) return depthwise_gather<T, Lanes::kExpand, false>(call);
      return whole ? depthwise_gather<T, Lanes::kPlain, false>(call)
                   : depthwise_gather<T, Lanes::kPartial, false>(call);
    case Operator::kInputGrad:
      if (expand) {
        return g.features >= N ? depthwise_gather<T, Lanes::kPlain, true>(call)
                               : depthwise_gather<T, Lanes::kPartial, true>(call);
      }
      return whole ? depthwise_gather<T, Lanes::kPlain, false>(call)
                   : depthwise_gather<T, Lanes::kPartial, false>(call);
    case Operator::kFilterGrad:
      if (expand) return depthwise_filter_grad<T, Lanes::kExpand>(call);
      return whole ? depthwise_filter_grad<T, Lanes::kPlain>(call)
                   : depthwise_filter_grad<T, Lanes::kPartial>(call);
  }
  return "unknown operator";
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
