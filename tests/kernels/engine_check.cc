// Compares random convolutions of the built library (jaxconv_run) with loops over every product.
//
// For machines without jax: built for another processor, it runs there or in an emulator.
//
//   engine_check LIBRARY [COUNT [CALLERS]]
//
// CALLERS threads call the library at once, each COUNT times. With a fourth argument, they write
// the same result, which the thread sanitizer must detect.

#include <dlfcn.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

namespace {

using Run = int (*)(int64_t op, int64_t element, int64_t rank, const int64_t* sizes,
                    const void* source, const void* operand, void* result, int64_t threads,
                    char* message, int64_t capacity);

enum Operator { kConv, kInputGrad, kFilterGrad };

// Two spatial axes, with the sizes in the order of jaxconv_run's.
struct Spec {
  int64_t batch, channels, features, groups;
  int64_t in[2], out[2], kernel[2], stride[2], dilation[2], padding[2][2];
};

thread_local std::mt19937_64 generator(1);
int64_t pick(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

Spec random_spec() {
  for (;;) {
    Spec s{};
    const bool depthwise = pick(0, 1) == 0;
    s.batch = pick(1, 2);
    s.groups = depthwise ? pick(1, 40) : pick(1, 3);
    s.channels = s.groups * (depthwise ? 1 : pick(1, 20));
    s.features = s.groups * (depthwise ? pick(1, 3) : pick(1, 20));
    bool any = true;
    for (int a = 0; a < 2; ++a) {
      s.in[a] = pick(1, 12);
      s.kernel[a] = pick(1, 7);
      s.stride[a] = pick(1, 3);
      s.dilation[a] = pick(1, 3);
      s.padding[a][0] = pick(0, 5);
      s.padding[a][1] = pick(0, 5);
      const int64_t room = s.in[a] + s.padding[a][0] + s.padding[a][1] -
                           (s.dilation[a] * (s.kernel[a] - 1) + 1);
      any = any && room >= 0;
      s.out[a] = room / s.stride[a] + 1;
    }
    if (any) return s;
  }
}

// Calls f(index in x, in the kernel, in g) for every product of the convolution.
template <class F>
void for_each_product(const Spec& s, F&& f) {
  const int64_t group_in = s.channels / s.groups, group_out = s.features / s.groups;
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t p = 0; p < s.out[0]; ++p)
      for (int64_t q = 0; q < s.out[1]; ++q)
        for (int64_t t = 0; t < s.kernel[0]; ++t)
          for (int64_t u = 0; u < s.kernel[1]; ++u) {
            const int64_t h = p * s.stride[0] + t * s.dilation[0] - s.padding[0][0];
            const int64_t w = q * s.stride[1] + u * s.dilation[1] - s.padding[1][0];
            if (h < 0 || h >= s.in[0] || w < 0 || w >= s.in[1]) continue;
            for (int64_t o = 0; o < s.features; ++o)
              for (int64_t c = 0; c < group_in; ++c)
                f(((n * s.in[0] + h) * s.in[1] + w) * s.channels + o / group_out * group_in + c,
                  ((t * s.kernel[1] + u) * group_in + c) * s.features + o,
                  ((n * s.out[0] + p) * s.out[1] + q) * s.features + o);
          }
}

template <class T>
bool check(Run run, int64_t element, const Spec& s) {
  std::vector<T> arrays[3];  // x, kernel, g
  arrays[0].resize(static_cast<size_t>(s.batch * s.in[0] * s.in[1] * s.channels));
  arrays[1].resize(
      static_cast<size_t>(s.kernel[0] * s.kernel[1] * s.channels / s.groups * s.features));
  arrays[2].resize(static_cast<size_t>(s.batch * s.out[0] * s.out[1] * s.features));
  std::normal_distribution<double> normal;
  for (auto& array : arrays) {
    for (T& value : array) value = static_cast<T>(normal(generator));
  }
  const int roles[3][3] = {{0, 1, 2}, {2, 1, 0}, {0, 2, 1}};  // operands and result
  for (int op = kConv; op <= kFilterGrad; ++op) {
    const auto &a = arrays[roles[op][0]], &b = arrays[roles[op][1]];
    std::vector<double> expected(arrays[roles[op][2]].size()), size(expected.size());
    for_each_product(s, [&](int64_t x, int64_t kernel, int64_t g) {
      const int64_t at[3] = {x, kernel, g};
      const double product = static_cast<double>(a[static_cast<size_t>(at[roles[op][0]])]) *
                             static_cast<double>(b[static_cast<size_t>(at[roles[op][1]])]);
      expected[static_cast<size_t>(at[roles[op][2]])] += product;
      size[static_cast<size_t>(at[roles[op][2]])] += std::fabs(product);
    });
    std::vector<T> result(expected.size(), T(1e30));
    char message[512];
    if (run(op, element, 2, &s.batch, a.data(), b.data(), result.data(), pick(1, 3), message,
            sizeof message) != 0) {
      std::printf("unsupported: %s\n", message);
      return false;
    }
    // Sums of at most 1,000 products have errors of about 30 epsilons of the products' sizes.
    const double epsilon = sizeof(T) == 8 ? 1e-14 : 5e-6;
    for (size_t i = 0; i < result.size(); ++i) {
      if (!(std::fabs(static_cast<double>(result[i]) - expected[i]) <= epsilon * (size[i] + 1))) {
        std::printf("operator %d, element %zu: %g instead of %g\n", op, i,
                    static_cast<double>(result[i]), expected[i]);
        return false;
      }
    }
  }
  return true;
}

// A convolution whose result other callers write too.
void race(Run run, const Spec& s, std::vector<float>& result) {
  const std::vector<float> zeros(1 << 20);
  char message[512];
  run(kConv, 0, 2, &s.batch, zeros.data(), zeros.data(), result.data(), 1, message, sizeof message);
}

}  // namespace

int main(int argc, char** argv) {
  void* library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : nullptr;
  const auto run = library ? reinterpret_cast<Run>(dlsym(library, "jaxconv_run")) : nullptr;
  if (run == nullptr) {
    std::printf("no jaxconv_run: %s\n", argc > 1 ? dlerror() : "usage: engine_check LIBRARY");
    return 1;
  }
  const int count = argc > 2 ? std::atoi(argv[2]) : 100;
  const int callers = argc > 3 ? std::atoi(argv[3]) : 1;
  std::vector<float> shared(argc > 4 ? 1 << 20 : 0);
  std::atomic<bool> failed{false};
  const auto work = [&](unsigned seed) {
    generator.seed(seed);
    for (int i = 0; i < count && !failed; ++i) {
      const Spec s = random_spec();
      if (!shared.empty()) {
        race(run, s, shared);
      } else if (!check<float>(run, 0, s) || !check<double>(run, 1, s)) {
        failed = true;
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < callers; ++i) threads.emplace_back(work, i + 1);
  work(1);
  for (std::thread& thread : threads) thread.join();
  if (failed) return 1;
  std::printf("%d convolutions by %d callers, every operator in float32 and float64\n", count,
              callers);
  return 0;
}
