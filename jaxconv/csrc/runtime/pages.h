// Large pages for results.
//
// XLA maps the temporaries of a program anew for every run, as one block, and whoever writes a page
// of it first pays for the page. At 4 KiB each that is 31,000 faults in a training step of MobileNetV1
// on 16x96x96 images and 192,000 in one of a ConvNeXt-T stage, which take 114 and 580 ms, and with
// 2 MiB each 88 and 390. Linux maps as much at a time where it is asked to.

#pragma once

#include <cstdint>

namespace jaxconv {

// Asks for large pages under the block of anonymous memory that a result lies in, if it is one that
// was mapped for itself. A hint: nothing is read or written, and pages that are there stay.
void prefer_large_pages(const void* result, int64_t bytes);

}  // namespace jaxconv
