#include "ffi/instruction_set.h"

#include <atomic>
#include <cstdlib>

#include "engine.h"

namespace jaxconv {
namespace {

#define JAXCONV_ENGINE(isa)                                                  \
  {#isa,                                                                     \
   {isa::depthwise_float32, isa::depthwise_float64, isa::depthwise_bfloat16, \
    isa::depthwise_float16},                                                 \
   {isa::dense_float32, isa::dense_float64, isa::dense_bfloat16, isa::dense_float16},      \
   {isa::pack_dense_float32, isa::pack_dense_float64, isa::pack_dense_bfloat16,            \
    isa::pack_dense_float16},                                                              \
   {isa::size_panels_dense_float32, isa::size_panels_dense_float64,                        \
    isa::size_panels_dense_bfloat16, isa::size_panels_dense_float16},                      \
   {isa::causal_float32, isa::causal_float64, isa::causal_bfloat16, isa::causal_float16}}

constexpr InstructionSet kBaseline = JAXCONV_ENGINE(baseline);
#if defined(JAXCONV_X86)
constexpr InstructionSet kAvx2 = JAXCONV_ENGINE(avx2);
constexpr InstructionSet kAvx512 = JAXCONV_ENGINE(avx512);
#endif

// Null if this machine does not support it.
const InstructionSet* find(const std::string& name) {
#if defined(JAXCONV_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (name == "avx512" && avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return &kAvx512;
  }
  if (name == "avx2" && avx2) return &kAvx2;
#endif
  return name == "baseline" ? &kBaseline : nullptr;
}

// The best one, or the one that JAXCONV_INSTRUCTION_SET names if this machine supports it.
const InstructionSet* initial() {
  if (const char* name = std::getenv("JAXCONV_INSTRUCTION_SET")) {
    if (const InstructionSet* set = find(name)) return set;
  }
  for (const char* name : {"avx512", "avx2"}) {
    if (const InstructionSet* set = find(name)) return set;
  }
  return &kBaseline;
}

std::atomic<const InstructionSet*>& in_use() {
  static std::atomic<const InstructionSet*> set{initial()};
  return set;
}

}  // namespace

const InstructionSet& instruction_set() { return *in_use().load(std::memory_order_relaxed); }

bool use_instruction_set(const std::string& name) {
  const InstructionSet* set = find(name);
  if (set != nullptr) in_use().store(set, std::memory_order_relaxed);
  return set != nullptr;
}

}  // namespace jaxconv
