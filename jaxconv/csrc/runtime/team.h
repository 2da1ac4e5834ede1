// Sharing the pieces of one call among threads.
//
// Pieces and what each computes depend on shapes alone, so results are bit-identical for any number
// of threads. A call already runs on a thread of XLA's pool: waiting there for tasks that only
// other pool threads can start would deadlock when all of them are callers. Therefore any thread
// can claim any piece, the caller claims pieces too, and it waits only for pieces that are already
// claimed.

#pragma once

#include <cstdint>

namespace jaxconv {

class Team {
 public:
  using Body = void (*)(void* context, int64_t piece, int64_t member);

  virtual ~Team() = default;

  // The number of threads that can take part.
  int64_t members() const { return members_; }

  // Calls body(context, piece, member) once for every piece, and returns when all have returned. At
  // most `members` threads take part, which `member` identifies.
  void run(int64_t pieces, int64_t members, Body body, void* context);

 protected:
  // `reusable`: threads outlive the team and may wait briefly for the next team's work.
  Team(int64_t members, bool reusable) : members_(members < 1 ? 1 : members), reusable_(reusable) {}

  // Runs task(data) on another thread, eventually and exactly once.
  virtual void start(void (*task)(void*), void* data) = 0;

 private:
  void run_some(int64_t first, int64_t pieces, int64_t members, Body body, void* context);

  int64_t members_;
  bool reusable_;
};

}  // namespace jaxconv
