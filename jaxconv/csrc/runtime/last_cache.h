#pragma once

#include <cstdint>

namespace jaxconv {

// Bytes of the last cache that this processor's cores share, 32 MiB where it is not known.
int64_t last_cache_bytes();

}  // namespace jaxconv
