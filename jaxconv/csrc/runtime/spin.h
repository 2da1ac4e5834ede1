// Waiting for another thread without giving up the CPU.

#pragma once

#include <chrono>

#include "runtime/environment.h"

namespace jaxconv {

// Waiting threads spin this long before blocking. Waking a blocked thread takes 10 microseconds, on
// virtual machines 50 to 200, which is as long as short calls compute: 3x3 8x14x14x512 takes 0.19
// ms instead of 0.27 (see docs/design/measurements.md).
constexpr auto kMaxSpin = std::chrono::microseconds(150);

inline bool spinning_enabled() {
  static const bool on = enabled("JAXCONV_SPIN");
  return on;
}

// Whether done() becomes true while spinning.
template <class Done>
bool spin(Done&& done) {
  if (!spinning_enabled()) return done();
  const auto until = std::chrono::steady_clock::now() + kMaxSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < until);
  return done();
}

}  // namespace jaxconv
