// Reads /proc/self/maps: a line "begin-end rw-p offset device inode [path]" per mapping.

#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>

namespace jaxconv {

struct AddressRange {
  uintptr_t begin, end;
  bool holds(uintptr_t first, uintptr_t last) const { return begin <= first && last <= end; }
};

// Reads in small steps, without allocating memory.
class MemoryMaps {
 public:
  MemoryMaps() : file_(open("/proc/self/maps", O_RDONLY | O_CLOEXEC)) {}
  ~MemoryMaps() {
    if (file_ >= 0) close(file_);
  }
  MemoryMaps(const MemoryMaps&) = delete;
  MemoryMaps& operator=(const MemoryMaps&) = delete;

  // The private, writable, anonymous mapping that holds [first, last), or an empty range.
  AddressRange find(uintptr_t first, uintptr_t last) {
    while (next_char() >= 0) {
      AddressRange range;
      range.begin = number(16);
      next_char();
      range.end = number(16);
      const bool anonymous = rest_is_anonymous();
      if (range.holds(first, last)) return anonymous ? range : AddressRange{0, 0};
    }
    return {0, 0};
  }

 private:
  // Reads the rest of a line, from the character after the addresses on.
  bool rest_is_anonymous() {
    const char permissions[] = " rw-p ";
    bool anonymous = true;
    for (int i = 0; i < 6; ++i) {
      if (i > 0) next_char();
      anonymous = anonymous && last_ == permissions[i];
    }
    for (int field = 0; field < 2; ++field) skip_past(' ');  // offset, device
    next_char();
    anonymous = number(10) == 0 && anonymous;  // inode
    while (last_ == ' ') next_char();
    anonymous = last_ == '\n' && anonymous;  // no path
    if (last_ != '\n') skip_past('\n');
    return anonymous;
  }

  // The next character, or a negative number at the end of the file.
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

  // The number that starts with the last character read.
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

}  // namespace jaxconv
