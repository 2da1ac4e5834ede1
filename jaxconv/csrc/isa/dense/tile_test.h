// Calls one tile for a test, through the tables of compiled tiles that the operators use.

#pragma once

#include <cstdint>

#include "isa/dense/tile.h"
#include "isa/dense/tile_test_hooks.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class A>
GatherTiles<A> tested_gather_tiles(DenseTile tile, int64_t features) {
  switch (tile) {
    case DenseTile::kNarrowGroups: return DenseTiles<A>::narrow_groups(features);
    case DenseTile::kFewFeatures: return DenseTiles<A>::few_features(features);
    default: return DenseTiles<A>::gather(features);
  }
}

// Writes the sizes of the tiles and calls the one asked for; false if it is not compiled.
// `set_writer` completes the arguments.
template <class Args, class SetWriter>
bool call_tile(const DenseTileTest& test, int64_t full, int64_t vectors, int64_t lanes,
               void (*tile)(const Args&), SetWriter&& set_writer) {
  test.sizes[0] = full;
  test.sizes[1] = vectors;
  test.sizes[2] = lanes;
  if (tile == nullptr || test.args == nullptr) return tile != nullptr;
  Args args = *static_cast<const Args*>(test.args);
  set_writer(args);
  tile(args);
  return true;
}

template <class T>
bool run_tile_test(const DenseTileTest& test) {
  using A = typename Accumulator<T>::type;
  if (test.tile == DenseTile::kFilterGrad) {
    const auto tiles = DenseTiles<A>::filter_grad(test.features);
    const bool exists = 1 <= test.size && test.size <= tiles.rows;
    return call_tile(test, tiles.rows, tiles.vectors, tiles.lanes,
                     exists ? tiles.run[test.size] : nullptr, [](auto&) {});
  }
  const auto tiles = tested_gather_tiles<A>(test.tile, test.features);
  const bool exists = 0 <= test.size && test.size < kTileSizes && 1 <= test.vectors &&
                      test.vectors <= tiles.vectors;
  return call_tile(test, tiles.pixels, tiles.vectors, tiles.lanes,
                   exists ? tiles.run[test.size][test.vectors - 1] : nullptr,
                   [](GatherTileArgs<A>& args) {
                     args.write = ResultWriter<T>::write_tile;
                     args.direct = ResultWriter<T>::kStoresSums;
                   });
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
