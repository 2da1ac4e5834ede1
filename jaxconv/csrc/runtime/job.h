// One job of a team: its pieces, and the threads that claim them.

#pragma once

#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "runtime/piece_range.h"
#include "runtime/spin.h"
#include "runtime/team.h"

namespace jaxconv {

// Shared by the caller and its helpers and freed by the last of them: a helper that the pool starts
// late finds every piece claimed and touches nothing else.
struct Job {
  Team::Body body;
  void* context;
  int64_t first, pieces, threads;
  int cpu;  // where the caller started
  std::atomic<int64_t> finished{0}, members{1}, holders;
  std::unique_ptr<PieceRange[]> ranges;  // one per thread
  std::fenv_t rounding;  // XLA flushes subnormals; helpers must round as the caller does
  std::mutex mutex;
  std::condition_variable all_finished;

  void work(int64_t member) {
    for (int64_t begin, count; (count = claim(member, &begin)) > 0;) {
      for (int64_t i = 0; i < count; ++i) body(context, first + begin + i, member);
      if (finished.fetch_add(count, std::memory_order_acq_rel) + count == pieces) {
        std::lock_guard<std::mutex> lock(mutex);
        all_finished.notify_one();
      }
    }
  }

  void wait() {
    const auto complete = [this] { return finished.load(std::memory_order_acquire) == pieces; };
    if (spin(complete)) return;
    std::unique_lock<std::mutex> lock(mutex);
    all_finished.wait(lock, complete);
  }

  void release() {
    if (holders.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

 private:
  // Pieces of the member's own range or, once that is empty, of another's.
  int64_t claim(int64_t member, int64_t* begin) {
    int64_t count = ranges[member].take_front(begin);
    for (int64_t i = 1; count == 0 && i < threads; ++i) {
      count = ranges[(member + i) % threads].take_back(begin);
    }
    return count;
  }
};

}  // namespace jaxconv
