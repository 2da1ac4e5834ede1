// Threads of the engine's own, as many as a test asks for.

#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "runtime/team.h"

namespace jaxconv {

// The calling thread and threads of its own.
class ThreadTeam : public Team {
 public:
  explicit ThreadTeam(int64_t members) : Team(members, false) {}
  ~ThreadTeam() override {
    for (std::thread& thread : threads_) thread.join();
  }

 protected:
  void start(void (*task)(void*), void* data) override { threads_.emplace_back(task, data); }

 private:
  std::vector<std::thread> threads_;
};

// If positive, calls use a ThreadTeam of this size instead of XLA's threads.
inline std::atomic<int64_t>& injected_threads() {
  static std::atomic<int64_t> threads{0};
  return threads;
}

}  // namespace jaxconv
