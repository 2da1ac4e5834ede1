// Depthwise causal convolutions of packed sequences for one instruction set and all element types.
//
// A row is one step of one sequence: its channels, which lie side by side. Each result row is a sum
// of at most K source rows times rows of weights. Which ones they are is the same for all channels,
// so segments cost nothing in the inner loop.

#include <type_traits>

#include "causal_call.h"
#include "isa/activations.h"
#include "isa/workspace.h"
#include "runtime/last_cache.h"

namespace jaxconv {
namespace JAXCONV_ISA {
namespace {

template <class T>
using Sum = typename Accumulator<T>::type;
template <class T>
constexpr int kSumLanes = kVectorBytes / sizeof(Sum<T>);

constexpr int64_t kSteps = 32;      // result rows that a thread computes at once
constexpr int64_t kChannels = 512;  // channels of them at once: weights and sums stay in L1
constexpr int kTapsAtOnce = 8;

// What is added up for one result row.
template <class T>
struct CausalSources {
  const T* rows[kMaxCausalTaps];
  const Sum<T>* weights[kMaxCausalTaps];
  int64_t count = 0;
};

// sums = start + rows[0]*weights[0] + … + rows[M-1]*weights[M-1]
template <int M, class T, class A>
void add_rows(const T* const* rows, const A* const* weights, const A* start, A* sums,
              int64_t count) {
  constexpr int N = kSumLanes<T>;
  const T* row[M];
  const A* weight[M];
  unroll<M>([&](auto m) JAXCONV_LAMBDA { row[m] = rows[m], weight[m] = weights[m]; });
  int64_t i = 0;
  for (; i + N <= count; i += N) {
    auto sum = load<A, N>(start + i);
    unroll<M>([&](auto m) JAXCONV_LAMBDA {
      sum += load<A, N>(row[m] + i) * load<A, N>(weight[m] + i);
    });
    store<A, N>(sums + i, sum);
  }
  if (i == count) return;
  auto sum = load<A, N>(start + i);
  unroll<M>([&](auto m) JAXCONV_LAMBDA {
    sum += load<A, N, true>(row[m] + i, count - i) * load<A, N>(weight[m] + i);
  });
  store<A, N>(sums + i, sum);
}

template <class T, class A = Sum<T>>
using AddRows = void (*)(const T* const*, const A* const*, const A*, A*, int64_t);
template <class T, class A = Sum<T>>
constexpr AddRows<T> kAddRows[kTapsAtOnce] = {
    add_rows<1, T, A>, add_rows<2, T, A>, add_rows<3, T, A>, add_rows<4, T, A>,
    add_rows<5, T, A>, add_rows<6, T, A>, add_rows<7, T, A>, add_rows<8, T, A>};

// Rounds the sums to elements. If they are `streamed`, past the caches, they are whole vectors.
template <class T, class A>
void write_row(const A* sums, int64_t count, bool streamed, T* result) {
  if constexpr (kStreams && std::is_same_v<T, A>) {
    constexpr int N = kSumLanes<T>;
    if (streamed) {
      for (int64_t i = 0; i < count; i += N) stream<A, N>(result + i, load<A, N>(sums + i));
      return;
    }
  }
  store_elements(sums, count, result);
}

template <class T>
class Causal {
  using A = Sum<T>;
  using Sources = CausalSources<T>;
  static constexpr int N = kSumLanes<T>;

 public:
  Causal(const CausalCall& call, Workspace& workspace) : call_(call) {
    for (int64_t tap = 0; tap < call.taps; ++tap) {
      weights_[tap] = row_of(static_cast<const T*>(call.kernel) + tap * call.channels, workspace);
    }
    bias_ = row_of(static_cast<const T*>(call.bias), workspace);
    constexpr int64_t kLine = 64;
    const int64_t row = call.channels * static_cast<int64_t>(sizeof(T));
    streams_ = kStreams && std::is_same_v<T, A> && row % kLine == 0 &&
               reinterpret_cast<uintptr_t>(call.result) % kLine == 0 &&
               call.batch * call.steps * row > last_cache_bytes();
  }

  static int64_t bytes(const CausalCall& call) {
    return (call.taps + 1) * Workspace::bytes<A>(call.channels + N);
  }

  static int64_t units(const CausalCall& call) { return call.batch * units_of_one(call); }

  // The rows of one sequence's `kSteps` steps.
  void compute(int64_t unit) const {
    const int64_t n = unit / units_of_one(call_);
    const int64_t first = unit % units_of_one(call_) * kSteps;
    const int64_t rows = smaller(kSteps, call_.steps - first);
    Sources sources[kSteps];
    for (int64_t i = 0; i < rows; ++i) find_sources(n, first + i, &sources[i]);
    T* results = static_cast<T*>(call_.result) + (n * call_.steps + first) * call_.channels;
    for (int64_t channel = 0; channel < call_.channels; channel += kChannels) {
      const int64_t count = smaller(kChannels, call_.channels - channel);
      for (int64_t i = 0; i < rows; ++i) {
        compute_row(sources[i], channel, count, results + i * call_.channels + channel);
      }
    }
    if (streams_) finish_streams();
  }

 private:
  static int64_t units_of_one(const CausalCall& call) { return (call.steps + kSteps - 1) / kSteps; }

  // As accumulators, with room for whole vectors; zeros if there is none.
  const A* row_of(const T* from, Workspace& workspace) const {
    A* row = workspace.take<A>(call_.channels + N);
    for (int64_t i = 0; i < call_.channels + N; ++i) row[i] = A(0);
    if (from != nullptr) copy_elements(from, call_.channels, row);
    return row;
  }

  void find_sources(int64_t n, int64_t step, Sources* sources) const {
    const int64_t first = n * (call_.before + call_.steps) + call_.before;
    const int32_t* ids = call_.ids + first;
    const T* x = static_cast<const T*>(call_.x) + first * call_.channels;
    for (int64_t tap = 0; tap < call_.taps; ++tap) {
      const int64_t from = step - call_.dilation * (call_.taps - 1 - tap);
      if (from < -call_.before || ids[from] != ids[step]) continue;
      sources->rows[sources->count] = x + from * call_.channels;
      sources->weights[sources->count++] = weights_[tap];
    }
  }

  void compute_row(const Sources& sources, int64_t channel, int64_t count, T* result) const {
    alignas(kVectorBytes) A sums[kChannels + N];
    const A* start = bias_ + channel;
    for (int64_t first = 0; first < sources.count; first += kTapsAtOnce) {
      const T* rows[kTapsAtOnce];
      const A* weights[kTapsAtOnce];
      const int64_t taps = smaller(kTapsAtOnce, sources.count - first);
      for (int64_t i = 0; i < taps; ++i) {
        rows[i] = sources.rows[first + i] + channel;
        weights[i] = sources.weights[first + i] + channel;
      }
      kAddRows<T>[taps - 1](rows, weights, start, sums, count);
      start = sums;
    }
    const int64_t whole = (count + N - 1) / N * N;
    Activations<A>::apply(call_.activation, static_cast<A>(call_.negative_slope), sums, whole);
    write_row(sums, count, streams_, result);
  }

  const CausalCall& call_;
  const A* weights_[kMaxCausalTaps];
  const A* bias_;
  bool streams_;
};

template <class T>
const char* causal(const CausalCall& call) {
  Workspace workspace(Causal<T>::bytes(call));
  if (!workspace.ok()) return kOutOfMemory;
  const Causal<T> run(call, workspace);
  const int64_t units = Causal<T>::units(call);
  const int64_t work = call.batch * call.steps * (call.channels / kSumLanes<T> + 1) * (call.taps + 4);
  const int64_t pieces = pieces_for(work, units);
  share(*call.team, pieces, call.team->members(), [&](int64_t piece, int64_t) {
    for (int64_t u = piece * units / pieces; u < (piece + 1) * units / pieces; ++u) {
      run.compute(u);
    }
  });
  return nullptr;
}

}  // namespace

const char* causal_float32(const CausalCall& call) { return causal<float>(call); }
const char* causal_float64(const CausalCall& call) { return causal<double>(call); }
const char* causal_bfloat16(const CausalCall& call) { return causal<bfloat16>(call); }
const char* causal_float16(const CausalCall& call) { return causal<float16>(call); }

}  // namespace JAXCONV_ISA
}  // namespace jaxconv
