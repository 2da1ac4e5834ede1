#include "runtime/pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__linux__) && defined(MADV_HUGEPAGE)

#include <chrono>
#include <mutex>

#include "runtime/environment.h"
#include "runtime/memory_maps.h"

namespace jaxconv {
namespace {

constexpr uintptr_t kLargePage = uintptr_t{2} << 20;

// From this size on, malloc() always makes a mapping of its own for an allocation, whatever was
// freed before.
constexpr uintptr_t kMinMappingBytes = uintptr_t{32} << 20;

// The mappings in which results were found. Programs run repeatedly, and XLA's memory is mapped at
// few addresses.
class KnownMappings {
 public:
  // The mapping that holds [first, last), or an empty range.
  AddressRange find(uintptr_t first, uintptr_t last) {
    std::lock_guard<std::mutex> lock(mutex_);
    AddressRange* known = nullptr;
    for (AddressRange& mapping : known_) {
      if (mapping.holds(first, last)) known = &mapping;
    }
    // Reading the maps takes up to a millisecond, so that at most a fiftieth of the time is spent
    // on new addresses, and less on checking whether known mappings still exist.
    const auto now = std::chrono::steady_clock::now();
    if (now < (known != nullptr ? next_check_ : next_search_)) {
      return known != nullptr ? *known : AddressRange{0, 0};
    }
    next_search_ = now + std::chrono::milliseconds(50);
    next_check_ = now + std::chrono::seconds(1);
    if (known == nullptr) known = &known_[next_++ % kMaxKnown];
    *known = MemoryMaps().find(first, last);
    if (known->end - known->begin < kMinMappingBytes) *known = {0, 0};
    return *known;
  }

 private:
  static constexpr int kMaxKnown = 32;

  std::mutex mutex_;
  std::chrono::steady_clock::time_point next_search_{}, next_check_{};
  AddressRange known_[kMaxKnown] = {};
  unsigned next_ = 0;
};

KnownMappings known_mappings;

}  // namespace

void prefer_large_pages(const void* result, int64_t bytes) {
  static const bool on = enabled("JAXCONV_LARGE_PAGES");
  if (!on || bytes < static_cast<int64_t>(kLargePage)) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(result);
  const AddressRange mapping = known_mappings.find(begin, begin + static_cast<uintptr_t>(bytes));
  const uintptr_t first = (mapping.begin + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t last = mapping.end / kLargePage * kLargePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

}  // namespace jaxconv

#else

namespace jaxconv {

void prefer_large_pages(const void*, int64_t) {}

}  // namespace jaxconv

#endif
