#include "runtime/pages.h"

#include <chrono>
#include <cstdint>
#include <mutex>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace jaxconv {

#if defined(__linux__) && defined(MADV_HUGEPAGE)

namespace {

constexpr uintptr_t kLargePage = uintptr_t{2} << 20;

// malloc() maps blocks of this size or more on their own, whatever was freed before.
constexpr uintptr_t kOwnBlock = uintptr_t{32} << 20;

struct Span {
  uintptr_t begin, end;
  bool holds(uintptr_t first, uintptr_t last) const { return begin <= first && last <= end; }
};

// Reads /proc/self/maps, a line "begin-end rw-p offset device inode [path]" at a time.
class Maps {
 public:
  Maps() : file_(open("/proc/self/maps", O_RDONLY | O_CLOEXEC)) {}
  ~Maps() {
    if (file_ >= 0) close(file_);
  }
  Maps(const Maps&) = delete;
  Maps& operator=(const Maps&) = delete;

  // The private, writable, anonymous mapping that holds [first, last), or an empty one.
  Span find(uintptr_t first, uintptr_t last) {
    while (next_char() >= 0) {
      Span span;
      span.begin = number(16);
      next_char();
      span.end = number(16);
      const char wanted[] = " rw-p ";
      bool anonymous = true;
      for (int i = 0; i < 6; ++i) {
        if (i > 0) next_char();
        anonymous = anonymous && last_ == wanted[i];
      }
      for (int field = 0; field < 2; ++field) skip_past(' ');  // offset, device
      next_char();
      anonymous = number(10) == 0 && anonymous;
      while (last_ == ' ') next_char();
      anonymous = last_ == '\n' && anonymous;  // no path
      if (last_ != '\n') skip_past('\n');
      if (span.holds(first, last)) return anonymous ? span : Span{0, 0};
    }
    return {0, 0};
  }

 private:
  // The next character, or a negative number at the end.
  int next_char() {
    if (at_ == size_) {
      at_ = 0;
      size_ = file_ < 0 ? 0 : read(file_, buffer_, sizeof buffer_);
      if (size_ <= 0) {
        size_ = 0;
        return last_ = -1;
      }
    }
    return last_ = static_cast<unsigned char>(buffer_[at_++]);
  }

  void skip_past(char c) {
    while (next_char() != c && last_ >= 0) continue;
  }

  // The number that begins at the last character read.
  uintptr_t number(unsigned base) {
    uintptr_t value = 0;
    for (;; next_char()) {
      if (last_ >= '0' && last_ <= '9') {
        value = value * base + static_cast<unsigned>(last_ - '0');
      } else if (base == 16 && last_ >= 'a' && last_ <= 'f') {
        value = value * base + static_cast<unsigned>(last_ - 'a') + 10;
      } else {
        return value;
      }
    }
  }

  int file_, last_ = 0;
  int64_t at_ = 0, size_ = 0;
  char buffer_[4096];
};

// Programs are run again and again, and get their blocks at a few addresses.
class Blocks {
 public:
  // The block that holds [first, last), or an empty span.
  Span find(uintptr_t first, uintptr_t last) {
    std::lock_guard<std::mutex> lock(mutex_);
    Span* known = nullptr;
    for (Span& block : known_) {
      if (block.holds(first, last)) known = &block;
    }
    // Reading the maps takes up to a millisecond: not more than a fiftieth of the time may go there,
    // and less to see whether what is known still holds.
    const auto now = std::chrono::steady_clock::now();
    if (now < (known != nullptr ? next_check_ : next_search_)) {
      return known != nullptr ? *known : Span{0, 0};
    }
    next_search_ = now + std::chrono::milliseconds(50);
    next_check_ = now + std::chrono::seconds(1);
    if (known == nullptr) known = &known_[next_++ % kKnown];
    *known = Maps().find(first, last);
    if (known->end - known->begin < kOwnBlock) *known = {0, 0};
    return *known;
  }

 private:
  static constexpr int kKnown = 32;

  std::mutex mutex_;
  std::chrono::steady_clock::time_point next_search_{}, next_check_{};
  Span known_[kKnown] = {};
  unsigned next_ = 0;
};

Blocks blocks;

}  // namespace

void prefer_large_pages(const void* result, int64_t bytes) {
  if (bytes < static_cast<int64_t>(kLargePage)) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(result);
  const Span block = blocks.find(begin, begin + static_cast<uintptr_t>(bytes));
  const uintptr_t first = (block.begin + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t last = block.end / kLargePage * kLargePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

#else

void prefer_large_pages(const void*, int64_t) {}

#endif

}  // namespace jaxconv
