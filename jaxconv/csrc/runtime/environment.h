// Environment variables that switch off effects on the whole process; docs/sharp_bits.md has the
// list.

#pragma once

#include <cstdlib>
#include <cstring>

namespace jaxconv {

// False if the variable is "0". Callers keep the answer: each variable is read once, when first
// used.
inline bool enabled(const char* variable) {
  const char* value = std::getenv(variable);
  return value == nullptr || std::strcmp(value, "0") != 0;
}

}  // namespace jaxconv
