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

// An empty string if the request is a convolution that the engine supports, otherwise the reason
// why it does not.
std::string unsupported_reason(const Request& request);

// Checks and computes a request. An empty string, or an error message.
std::string run(const Request& request, const void* source, const void* operand, void* result,
                Team& team);

// Computes a request that is supported. The call has its arrays, team, epilogue and panels; the
// rest is filled in from the request.
std::string compute(const Request& request, Call call);

using Shape = std::vector<int64_t>;
std::string to_string(const Shape& shape);

// In bytes.
int64_t element_size(Element element);

Geometry geometry(const Request& request);

// Whether the depthwise part of the engine computes it.
bool is_depthwise(const Geometry& geometry);

}  // namespace jaxconv
