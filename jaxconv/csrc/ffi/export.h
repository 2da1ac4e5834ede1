#pragma once

// A function that the library exports; all others are hidden.
#define JAXCONV_EXPORT extern "C" __attribute__((visibility("default")))
