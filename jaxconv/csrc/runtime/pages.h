// Large pages for results.
//
// XLA maps the temporaries of a program anew for every run, as one mapping, and the first write to
// each page faults. With 4 KiB pages, a training step of MobileNetV1 on 16x96x96 images takes
// 31,000 faults and 114 ms; with 2 MiB pages it takes 88 ms (see docs/design/measurements.md).

#pragma once

#include <cstdint>

namespace jaxconv {

// Asks Linux for large pages in the anonymous mapping that holds a result, if that mapping is so
// large that it holds a single allocation (32 MiB). This is a hint: no memory is read or written,
// and pages that exist stay. The environment variable JAXCONV_LARGE_PAGES=0 switches it off.
void prefer_large_pages(const void* result, int64_t bytes);

}  // namespace jaxconv
