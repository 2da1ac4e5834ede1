// Temporary memory for one call, and running the pieces of one call on its team of threads.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "call.h"
#include "isa/vec.h"

namespace jaxconv {
namespace JAXCONV_ISA {

constexpr const char* kOutOfMemory = "out of memory for the workspace";

class Workspace {
 public:
  explicit Workspace(int64_t bytes)
      : memory_(static_cast<char*>(std::aligned_alloc(64, round_up(bytes)))) {}
  ~Workspace() { std::free(memory_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  bool ok() const { return memory_ != nullptr; }

  // Returns memory for `count` elements that starts on a new cache line.
  template <class T>
  JAXCONV_INLINE T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(memory_ + used_);
    used_ += bytes<T>(count);
    return p;
  }

  // The bytes that take<T>(count) uses.
  template <class T>
  static int64_t bytes(int64_t count) {
    return round_up(count * static_cast<int64_t>(sizeof(T)));
  }

  static int64_t round_up(int64_t bytes) { return (larger(bytes, 1) + 63) / 64 * 64; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// How many threads can have `member_bytes` of workspace each beside the `shared_bytes` they share.
JAXCONV_INLINE int64_t members_for(const Team& team, int64_t member_bytes, int64_t shared_bytes) {
  return clamp((kWorkspaceBytes - shared_bytes) / larger(member_bytes, 1), 1, team.members());
}

// Calls body(piece, member) for every piece, on at most `members` threads.
template <class F>
JAXCONV_INLINE void share(Team& team, int64_t pieces, int64_t members, F&& body) {
  team.run(
      pieces, members,
      [](void* context, int64_t piece, int64_t member) {
        (*static_cast<std::remove_reference_t<F>*>(context))(piece, member);
      },
      &body);
}

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
