// Many convolutions of the same sizes, each with arrays of its own.

#pragma once

#include <cstdint>
#include <string>

#include "ffi/request.h"

namespace jaxconv {

// Computes `request` for each of `examples` consecutive arrays. Each result is the same, bit for
// bit, as that of a call of its own.
std::string run_examples(const Request& request, int64_t examples, const void* source,
                         const void* operand, void* result, Team& team);

}  // namespace jaxconv
