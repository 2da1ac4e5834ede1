// A call as it arrives: shapes and attributes that have not been checked.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "call.h"

namespace jaxconv {

struct Request {
  Operator op;
  Element element;
  std::vector<int64_t> input;   // [N, *S, C]
  std::vector<int64_t> kernel;  // [*K, C/G, F]
  std::vector<int64_t> output;  // [N, *O, F]
  std::vector<int64_t> strides;
  std::vector<int64_t> padding;  // low and high for each spatial axis
  std::vector<int64_t> dilation;
  int64_t groups;
};

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

// An empty string if the request is a convolution that the engine supports, otherwise the reason
// why it does not.
std::string unsupported_reason(const Request& request);

// Checks and computes a request. An empty string, or an error message.
std::string run(const Request& request, const void* source, const void* operand, void* result,
                Team& team);

// The same for a convolution with an epilogue.
std::string run_fused(const Request& request, const EpilogueRequest& epilogue, const void* source,
                      const void* operand, void* result, Team& team);

}  // namespace jaxconv
