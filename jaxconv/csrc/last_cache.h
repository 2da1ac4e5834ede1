#pragma once

#include <cstdint>

namespace jaxconv {

// Bytes of the last cache that a call's arrays may find themselves in, after one another.
int64_t last_cache_bytes();

}  // namespace jaxconv
