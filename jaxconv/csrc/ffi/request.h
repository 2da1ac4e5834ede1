// A call as it arrives: shapes and attributes, nothing believed yet.

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
  std::vector<int64_t> padding;  // low, high of each spatial axis
  std::vector<int64_t> dilation;
  int64_t groups;
};

// Empty if the request is a convolution that the engine computes, else the reason in words.
std::string check(const Request& request);

// Computes a request that passes check(). Empty, or what went wrong.
std::string compute(const Request& request, const void* source, const void* operand, void* result,
                    Team& team);

// The instruction set in use: the best that this machine has, of those the library was built for.
const char* instruction_set();

// Uses another one, for tests; false where this machine or this build lacks it.
bool use_instruction_set(const std::string& name);

}  // namespace jaxconv
