// Multiply-adds on registers alone: the peak of the machine's arithmetic units.

#include <stdint.h>

#if defined(__AVX512F__)
typedef float vec __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef float vec __attribute__((vector_size(32)));
#else
typedef float vec __attribute__((vector_size(16)));
#endif

// Enough independent sums to hide the latency of two units, few enough for sixteen registers.
enum { kSums = 12, kLanes = sizeof(vec) / sizeof(float) };

// Floating-point operations per round.
int64_t fma_flops(void) { return 2 * kSums * kLanes; }

float fma_rounds(int64_t rounds, float factor, float term) {
  // Different initial values: of equal sums a compiler would keep only one.
  vec sums[kSums];
  for (int s = 0; s < kSums; ++s) sums[s] = term * (float)s - (vec){0};
  const vec factors = factor - (vec){0}, terms = term - (vec){0};
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int s = 0; s < kSums; ++s) sums[s] = sums[s] * factors + terms;
  }
  vec total = {0};
  for (int s = 0; s < kSums; ++s) total += sums[s];
  float sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += total[l];
  return sum;
}
