// Kernels that are packed once: a header, and all panels of weights as the tiles read them.

#pragma once

#include <cstdint>
#include <string>

#include "ffi/request.h"

namespace jaxconv {

struct PackedKernel {
  const void* data;
  int64_t bytes;
};

// The bytes of a request's packed kernel, or 0 if the engine reads that kernel in place.
int64_t packed_bytes(const Request& request);

// Packs the kernel into `packed`, which has `bytes` bytes. An empty string, or an error message.
std::string pack(const Request& request, const void* kernel, void* packed, int64_t bytes,
                 Team& team);

// An empty string if the kernel was packed for this convolution and the instruction set in use,
// otherwise what is wrong.
std::string check_packed(const Request& request, const PackedKernel& packed);

// The panels of a packed kernel that has been checked.
const void* panels_of(const PackedKernel& packed);

}  // namespace jaxconv
