// XLA's threads, which compute the calls of a program.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#include "geometry.h"
#include "runtime/team.h"
#include "xla/ffi/api/ffi.h"

namespace jaxconv {

// The number of XLA's threads that a call of one device may use. A program on several devices runs
// on each at once, so the cores are divided among the devices that made a call recently: a thread
// too many takes the core of another device's caller, and is waited for. 3x3 32x56x56x32 with both
// gradients, sharded by batch over two devices of two cores, takes 3.3 ms instead of 4.2 (see
// docs/design/measurements.md).
inline int64_t share_of_threads(int64_t threads, int32_t device) {
  constexpr int64_t kMaxDevices = 64;
  constexpr auto kRecent = std::chrono::milliseconds(50);
  using Clock = std::chrono::steady_clock;
  static const int64_t cores = larger(1, std::thread::hardware_concurrency());
  static std::atomic<Clock::rep> latest[kMaxDevices];
  const Clock::rep now = Clock::now().time_since_epoch().count();
  const Clock::rep recent = now - Clock::duration(kRecent).count();
  latest[device % kMaxDevices].store(now, std::memory_order_relaxed);
  int64_t devices = 0;
  for (const auto& at : latest) devices += at.load(std::memory_order_relaxed) > recent;
  return larger(1, smaller(threads, cores) / devices);
}

// The calling thread and XLA's intra-op threads.
class PoolTeam : public Team {
 public:
  PoolTeam(xla::ffi::ThreadPool pool, int32_t device)
      : Team(share_of_threads(pool.num_threads(), device), true), pool_(pool) {}

 protected:
  void start(void (*task)(void*), void* data) override {
    pool_.Schedule([task, data] { task(data); });
  }

 private:
  xla::ffi::ThreadPool pool_;
};

}  // namespace jaxconv
