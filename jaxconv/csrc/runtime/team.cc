#include "runtime/team.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cstdint>

#include "runtime/affinity.h"
#include "runtime/job.h"
#include "runtime/spin.h"

namespace jaxconv {
namespace {

// Where helpers that have finished a job spin for the next one, because networks call convolutions
// in succession. XLA cannot use a thread that spins. So after a few waits in vain (or when many
// threads wait at once) helpers return to its pool, and only occasionally one of them waits again.
class WaitingPlace {
 public:
  // Gives the job to a waiting helper, if there is one.
  static bool hand_over(Job* job) {
    for (WaitingPlace& place : all_) {
      uintptr_t state = kWaiting;
      if (place.state_.load(std::memory_order_relaxed) == kWaiting &&
          place.state_.compare_exchange_strong(state, reinterpret_cast<uintptr_t>(job))) {
        return true;
      }
    }
    return false;
  }

  // The next job, or null.
  static Job* next_job() {
    if (!spinning_enabled()) return nullptr;
    const uint32_t waits = waits_in_vain_.fetch_add(1, std::memory_order_relaxed);
    if (waits >= kMaxWaitsInVain && waits % kWaitInterval != 0) return nullptr;
    for (WaitingPlace& place : all_) {
      uintptr_t state = kVacant;
      if (!place.state_.compare_exchange_strong(state, kWaiting)) continue;
      spin([&] { return place.state_.load(std::memory_order_relaxed) != kWaiting; });
      state = place.state_.exchange(kVacant);
      if (state == kWaiting) return nullptr;
      waits_in_vain_.store(0, std::memory_order_relaxed);
      return reinterpret_cast<Job*>(state);
    }
    return nullptr;
  }

 private:
  static constexpr uintptr_t kVacant = 0, kWaiting = 1;  // otherwise the address of a job
  static constexpr uint32_t kMaxWaitsInVain = 4, kWaitInterval = 32;

  static WaitingPlace all_[16];
  static std::atomic<uint32_t> waits_in_vain_;

  alignas(64) std::atomic<uintptr_t> state_{kVacant};
};

WaitingPlace WaitingPlace::all_[16];
std::atomic<uint32_t> WaitingPlace::waits_in_vain_{0};

void finish(Job* job) {
  if (job->finished.load(std::memory_order_relaxed) < job->pieces) {
    std::fenv_t own;
    std::fegetenv(&own);
    std::fesetenv(&job->rounding);
    leave_cpu(job->cpu);
    job->work(job->members.fetch_add(1, std::memory_order_relaxed));
    std::fesetenv(&own);
  }
  job->release();
}

void help(void* data) { finish(static_cast<Job*>(data)); }

void help_and_wait(void* data) {
  Job* job = static_cast<Job*>(data);
  for (; job != nullptr; job = WaitingPlace::next_job()) finish(job);
}

}  // namespace

void Team::run(int64_t pieces, int64_t members, Body body, void* context) {
  for (int64_t first = 0; first < pieces; first += PieceRange::kMaxPieces) {
    run_some(first, std::min(pieces - first, PieceRange::kMaxPieces), members, body, context);
  }
}

void Team::run_some(int64_t first, int64_t pieces, int64_t members, Body body, void* context) {
  const int64_t helpers = std::min({pieces, members, members_}) - 1;
  if (helpers <= 0) {
    for (int64_t piece = 0; piece < pieces; ++piece) body(context, first + piece, 0);
    return;
  }
  Job* job = new Job;
  job->body = body;
  job->context = context;
  job->first = first;
  job->pieces = pieces;
  job->threads = helpers + 1;
  job->cpu = current_cpu();
  job->holders = helpers + 1;
  job->ranges.reset(new PieceRange[job->threads]);
  for (int64_t i = 0; i < job->threads; ++i) {
    job->ranges[i].set(pieces * i / job->threads, pieces * (i + 1) / job->threads);
  }
  std::fegetenv(&job->rounding);
  for (int64_t i = 0; i < helpers; ++i) {
    if (!reusable_) {
      start(help, job);
    } else if (!WaitingPlace::hand_over(job)) {
      start(help_and_wait, job);
    }
  }
  job->work(0);
  job->wait();
  job->release();
}

}  // namespace jaxconv
