// One call of the engine, as the FFI layer passes it to the code of one instruction set.

#pragma once

#include <cstdint>

#include "epilogue.h"
#include "geometry.h"
#include "runtime/team.h"

namespace jaxconv {

struct Call {
  Operator op;
  Geometry geometry;
  const void* source;   // x, or g for input_grad
  const void* operand;  // the kernel, or g for filter_grad
  void* result;
  Team* team;
  const Epilogue* epilogue;  // of a conv, or null
  const void* panels;        // of a kernel that was packed before, or null
};

// Returns null, or an error message if the call could not be computed.
using Compute = const char* (*)(const Call&);

// The panels of a packed kernel: accumulators, in an order that the instruction set determines.
struct PanelSizes {
  int64_t vectors, lanes, bytes;  // vectors of a panel, lanes of a vector, bytes of all panels
};
using SizePanels = PanelSizes (*)(const Geometry&);

// Upper bound on the memory that one call allocates in addition to its result.
constexpr int64_t kWorkspaceBytes = int64_t{4} << 20;

// Work is estimated in vector operations of one core. Smaller pieces are not worth handing to
// another thread: waking one takes about 10 microseconds.
constexpr int64_t kPieceWork = 20000;

// The number of pieces to split work into, at most `limit`: few enough that small calls stay on one
// thread, and enough that no thread waits long for the last piece. A power of two divides evenly
// among most numbers of threads: of three pieces for two threads, one would run where the cache
// does not hold its arrays (see docs/design/measurements.md).
static inline int64_t pieces_for(int64_t work, int64_t limit) {
  const int64_t max_pieces = smaller(limit, smaller(work / kPieceWork, 64));
  int64_t pieces = 1;
  while (2 * pieces <= max_pieces) pieces *= 2;
  return pieces;
}

}  // namespace jaxconv
