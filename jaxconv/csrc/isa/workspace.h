// Memory for the length of one call, and the pieces of one call as a lambda.

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

  // The next `count` elements, on a cache line of their own.
  template <class T>
  JAXCONV_INLINE T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(memory_ + used_);
    used_ += bytes<T>(count);
    return p;
  }

  // What take<T>(count) uses up.
  template <class T>
  static int64_t bytes(int64_t count) {
    return round_up(count * static_cast<int64_t>(sizeof(T)));
  }

  static int64_t round_up(int64_t bytes) { return (larger(bytes, 1) + 63) / 64 * 64; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

// How many threads can have `bytes` of workspace each, when `taken` is spent on what they share.
JAXCONV_INLINE int64_t members_for(const Team& team, int64_t bytes, int64_t taken) {
  return clamp((kWorkspaceBytes - taken) / larger(bytes, 1), 1, team.members());
}

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
