// Calls one tile for a test, through the tables of compiled tiles that the operators use.

#pragma once

#include <cstdint>

#include "isa/dense/few_features_tile.h"
#include "isa/dense/filter_grad_tile.h"
#include "isa/dense/narrow_groups_tile.h"
#include "isa/dense/tile.h"
#include "isa/dense/tile_test_hooks.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

template <class T, class A>
GatherTiles<T, A> tested_gather_tiles(DenseTile tile, int64_t features) {
  switch (tile) {
    case DenseTile::kNarrowGroups: return choose_narrow_groups_tiles<T, A>(features);
    case DenseTile::kFewFeatures: return choose_few_features_tiles<T, A>(features);
    default: return choose_gather_tiles<T, A>(features);
  }
}

// Writes the sizes of the tiles and calls the one asked for; false if it is not compiled.
template <class Args>
bool call_tile(const DenseTileTest& test, int64_t full, int64_t vectors, int64_t lanes,
               void (*tile)(const Args&)) {
  test.sizes[0] = full;
  test.sizes[1] = vectors;
  test.sizes[2] = lanes;
  if (tile != nullptr && test.args != nullptr) tile(*static_cast<const Args*>(test.args));
  return tile != nullptr;
}

template <class T>
bool run_tile_test(const DenseTileTest& test) {
  using A = typename Accumulator<T>::type;
  if (test.tile == DenseTile::kFilterGrad) {
    const auto tiles = choose_filter_grad_tiles<A>(test.features);
    const bool exists = 1 <= test.size && test.size <= tiles.rows;
    return call_tile(test, tiles.rows, tiles.vectors, tiles.lanes,
                     exists ? tiles.run[test.size] : nullptr);
  }
  const auto tiles = tested_gather_tiles<T, A>(test.tile, test.features);
  const bool exists = 0 <= test.size && test.size < kTileSizes && 1 <= test.vectors &&
                      test.vectors <= tiles.vectors;
  return call_tile(test, tiles.pixels, tiles.vectors, tiles.lanes,
                   exists ? tiles.run[test.size][test.vectors - 1] : nullptr);
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
