// The size of the last cache that the cores of this processor share.

#pragma once

#include <cstdint>

namespace jaxconv {

// In bytes; 32 MiB if it is unknown.
int64_t last_cache_bytes();

}  // namespace jaxconv
