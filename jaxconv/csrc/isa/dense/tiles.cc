// The dense tiles and the choice among them by size: compiled once per instruction set and accumulator
// type.

#include "isa/dense/few_features_tile.h"
#include "isa/dense/filter_grad_tile.h"
#include "isa/dense/gather_tile.h"
#include "isa/dense/narrow_groups_tile.h"
#include "isa/dense/tile.h"

namespace jaxconv {
namespace JAXCONV_ISA {

// The narrowest vectors that hold the features, or else as few panels as the registers allow.
template <class A>
GatherTiles<A> DenseTiles<A>::gather(int64_t features) {
  constexpr int N = kVectorBytes / sizeof(A);
  if constexpr (kVectorBytes >= 64) {
    if (features <= N / 4) return gather_tiles<A, N / 4, 12, 1>();
  }
  if constexpr (kVectorBytes >= 32) {
    if (features <= N / 2) return gather_tiles<A, N / 2, 12, 1>();
  }
  if (features <= N) return gather_tiles<A, N, 12, 1>();
  if constexpr (kVectorRegisters == 32) {
    const int64_t vectors = ceil_div(features, N);
    switch (ceil_div(vectors, ceil_div(vectors, kMaxTileVectors))) {  // panels of similar width
      case 2: return gather_tiles<A, N, 12, 2, 1>();
      case 3: return gather_tiles<A, N, 8, 3, 1>();
      default: return gather_tiles<A, N, 6, 4, 1>();
    }
  } else {
    return gather_tiles<A, N, 6, 2, 1>();
  }
}

// As many pixels as leave registers for a source and the weights.
template <class A>
GatherTiles<A> DenseTiles<A>::few_features(int64_t features) {
  constexpr bool kManyRegisters = kVectorRegisters == 32;
  switch (features) {
    case 1: return few_features_tiles<A, kManyRegisters ? 12 : 8, 1>();
    case 2: return few_features_tiles<A, kManyRegisters ? 12 : 6, 2>();
    case 3: return few_features_tiles<A, kManyRegisters ? 8 : 3, 3>();
    default: return few_features_tiles<A, kManyRegisters ? 6 : 2, 4>();
  }
}

template <class A>
GatherTiles<A> DenseTiles<A>::narrow_groups(int64_t width) {
  constexpr int N = kVectorBytes / sizeof(A);
  if constexpr (N > 8) {
    if (width == 8) return narrow_groups_tiles<A, 8>();
  }
  if constexpr (N > 4) {
    if (width == 4) return narrow_groups_tiles<A, 4>();
  }
  return narrow_groups_tiles<A, 2>();
}

template <class A>
FilterGradTiles<A> DenseTiles<A>::filter_grad(int64_t features) {
  constexpr int N = kVectorBytes / sizeof(A);
  if constexpr (kVectorBytes >= 64) {
    if (features <= N / 4) return filter_grad_tiles<A, N / 4, 12, 1>();
  }
  if constexpr (kVectorBytes >= 32) {
    if (features <= N / 2) return filter_grad_tiles<A, N / 2, 12, 1>();
  }
  if (features <= N) return filter_grad_tiles<A, N, 12, 1>();
  if constexpr (kVectorRegisters == 32) {
    const int64_t vectors = ceil_div(features, N);
    if (vectors % 2 != 0 && vectors % 3 == 0) return filter_grad_tiles<A, N, 8, 3>();
    return filter_grad_tiles<A, N, 12, 2>();
  } else {
    return filter_grad_tiles<A, N, 6, 2>();
  }
}

template struct DenseTiles<JAXCONV_ACCUMULATOR>;

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
