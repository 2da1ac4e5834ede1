#include "team.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <mutex>

namespace jaxconv {
namespace {

// Shared by the caller and its helpers, and freed by the last of them: a helper that the pool
// starts late finds every piece claimed and touches nothing else.
struct Job {
  Team::Body body;
  void* context;
  int64_t pieces;
  std::atomic<int64_t> claimed{0}, finished{0}, members{1}, holders;
  std::fenv_t rounding;  // XLA flushes subnormals; helpers must round as the caller does
  std::mutex mutex;
  std::condition_variable all_finished;

  void work(int64_t member) {
    for (int64_t piece; (piece = claimed.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
      body(context, piece, member);
      if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces) {
        std::lock_guard<std::mutex> lock(mutex);
        all_finished.notify_one();
      }
    }
  }

  void wait() {
    const auto complete = [this] { return finished.load(std::memory_order_acquire) == pieces; };
    // The last pieces end within microseconds of one another; sleeping costs more than that.
    for (int spin = 0; spin < 2000 && !complete(); ++spin) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    std::unique_lock<std::mutex> lock(mutex);
    all_finished.wait(lock, complete);
  }

  void release() {
    if (holders.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
};

void help(void* data) {
  Job* job = static_cast<Job*>(data);
  if (job->claimed.load(std::memory_order_relaxed) < job->pieces) {
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&job->rounding);
    job->work(job->members.fetch_add(1, std::memory_order_relaxed));
    std::fesetenv(&own);
  }
  job->release();
}

}  // namespace

void Team::run(int64_t pieces, int64_t members, Body body, void* context) {
  const int64_t helpers = std::min({pieces, members, members_}) - 1;
  if (helpers <= 0) {
    for (int64_t piece = 0; piece < pieces; ++piece) body(context, piece, 0);
    return;
  }
  Job* job = new Job;
  job->body = body;
  job->context = context;
  job->pieces = pieces;
  job->holders = helpers + 1;
  std::fegetenv(&job->rounding);
  for (int64_t i = 0; i < helpers; ++i) start(help, job);
  job->work(0);
  job->wait();
  job->release();
}

}  // namespace jaxconv
