// Sharing the pieces of one call among threads.
//
// Pieces and what each computes depend on shapes alone, so results are the same bit for bit for any
// number of threads. A call already runs on a thread of XLA's pool: waiting there for tasks that
// only other pool threads can start would deadlock when all of them are callers. So every piece can
// be claimed by any thread, the caller claims too, and waits only for pieces already claimed.

#pragma once

#include <cstdint>

namespace jaxconv {

class Team {
 public:
  using Body = void (*)(void* context, int64_t piece, int64_t member);

  virtual ~Team() = default;

  // Threads there are to take part.
  int64_t members() const { return members_; }

  // Calls body(context, piece, member) once for every piece, and returns when all have returned.
  // At most `members` threads take part; `member` tells them apart.
  void run(int64_t pieces, int64_t members, Body body, void* context);

 protected:
  // `kept`: threads outlive the team, and may wait a little for the next team's work.
  Team(int64_t members, bool kept) : members_(members < 1 ? 1 : members), kept_(kept) {}

  // Runs task(data) on another thread, sooner or later, exactly once.
  virtual void start(void (*task)(void*), void* data) = 0;

 private:
  void run_some(int64_t first, int64_t pieces, int64_t members, Body body, void* context);

  int64_t members_;
  bool kept_;
};

}  // namespace jaxconv
