#include "runtime/last_cache.h"

#include <cstdio>

namespace jaxconv {
namespace {

int64_t read() {
  long long kibibytes = 0;
  if (std::FILE* file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    if (std::fscanf(file, "%lldK", &kibibytes) != 1) kibibytes = 0;
    std::fclose(file);
  }
  return (kibibytes > 0 ? static_cast<int64_t>(kibibytes) : int64_t{32} << 10) << 10;
}

}  // namespace

int64_t last_cache_bytes() {
  static const int64_t bytes = read();
  return bytes;
}

}  // namespace jaxconv
