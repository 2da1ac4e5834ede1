// One call of the engine, as its front door hands it to the code of one instruction set.

#pragma once

#include <cstdint>

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
};

// A sentence that says why the call cannot be computed, or null.
using Compute = const char* (*)(const Call&);

// What one call may allocate beside its result.
constexpr int64_t kWorkspaceBytes = int64_t{4} << 20;

// Work is counted in vector operations of a single core, roughly; a piece below this many is not
// worth handing to another thread (waking one takes some 10 microseconds).
constexpr int64_t kPieceWork = 20000;

// Into how many pieces work that splits into at most `limit` is split: by cost, so that small calls
// stay on one thread, and finely enough that the last piece is not waited for long. A power of two
// of them divides among most numbers of threads: of three pieces for two threads one is computed
// where its arrays are not, and 3x3 2x28x28x64 after another took as long as on one thread.
static inline int64_t pieces_for(int64_t work, int64_t limit) {
  const int64_t most = smaller(limit, smaller(work / kPieceWork, 64));
  int64_t pieces = 1;
  while (2 * pieces <= most) pieces *= 2;
  return pieces;
}

}  // namespace jaxconv
