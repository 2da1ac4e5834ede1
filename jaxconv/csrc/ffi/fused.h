// A convolution with an epilogue, and possibly a packed kernel, as it arrives.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ffi/packed_kernel.h"
#include "ffi/request.h"

namespace jaxconv {

// An array of an epilogue, or null data if the epilogue does not read it.
struct EpilogueArray {
  const void* data;
  std::vector<int64_t> shape;
};

struct EpilogueRequest {
  EpilogueArray scale, bias;  // [F]
  EpilogueArray residual;     // like the output
  int64_t activation;
  double negative_slope;
};

// Checks and computes the convolution. An empty string, or an error message. `packed` is null, or
// stands in for the operand.
std::string run_fused(const Request& request, const EpilogueRequest& epilogue, const void* source,
                      const void* operand, const PackedKernel* packed, void* result, Team& team);

}  // namespace jaxconv
