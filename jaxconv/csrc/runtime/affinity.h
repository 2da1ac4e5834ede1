// Moving a helper thread off its caller's CPU.
//
// Linux tends to wake a thread on its waker's CPU and may leave it there for tens of calls, next to
// an idle one: 1x1 s2 8x56x56 64>128 then took 1.0 ms instead of 0.6.

#pragma once

#include "runtime/environment.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace jaxconv {

#if defined(__linux__)

inline int current_cpu() { return sched_getcpu(); }

// If this thread runs on `cpu`, excludes that CPU from the thread's affinity, which makes Linux
// move the thread, and then restores the affinity.
inline void leave_cpu(int cpu) {
  static const bool on = enabled("JAXCONV_AFFINITY");
  if (!on || cpu < 0 || cpu >= CPU_SETSIZE || sched_getcpu() != cpu) return;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof allowed, &allowed);
}

#else

inline int current_cpu() { return -1; }
inline void leave_cpu(int) {}

#endif

}  // namespace jaxconv
