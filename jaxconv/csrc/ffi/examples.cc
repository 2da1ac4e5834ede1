#include "ffi/examples.h"

#include <mutex>
#include <utility>

#include "runtime/pages.h"

namespace jaxconv {
namespace {

// The calling thread alone.
class Alone : public Team {
 public:
  Alone() : Team(1, false) {}

 protected:
  void start(void (*)(void*), void*) override {}
};

struct Bytes {
  int64_t source, operand, result;  // of one example
};

Bytes bytes_of(const Request& r) {
  const auto bytes = [&r](const Shape& shape) {
    int64_t product = element_size(r.element);
    for (int64_t size : shape) product *= size;
    return product;
  };
  switch (r.op) {
    case Operator::kConv: return {bytes(r.input), bytes(r.kernel), bytes(r.output)};
    case Operator::kInputGrad: return {bytes(r.output), bytes(r.kernel), bytes(r.input)};
    default: return {bytes(r.input), bytes(r.output), bytes(r.kernel)};
  }
}

// Vector operations of one example, for a vector of eight.
int64_t work_of(const Request& r) {
  const Geometry g = geometry(r);
  return g.batch * g.outputs() * g.taps() * g.group_in() * g.features / 8;
}

class Examples {
 public:
  Examples(const Request& request, int64_t examples, const void* source, const void* operand,
           void* result)
      : request_(request),
        examples_(examples),
        source_(static_cast<const char*>(source)),
        operand_(static_cast<const char*>(operand)),
        result_(static_cast<char*>(result)),
        bytes_(bytes_of(request)) {}

  // One after the other, each by the whole team.
  std::string one_by_one(Team& team) {
    for (int64_t i = 0; i < examples_ && problem_.empty(); ++i) problem_ = run_one(i, team);
    return problem_;
  }

  // Side by side, each by a single thread.
  std::string side_by_side(Team& team, int64_t pieces) {
    pieces_ = pieces;
    const auto body = [](void* self, int64_t piece, int64_t) {
      static_cast<Examples*>(self)->run_piece(piece);
    };
    team.run(pieces, team.members(), body, this);
    return problem_;
  }

 private:
  std::string run_one(int64_t i, Team& team) const {
    Call call{};
    call.source = source_ + i * bytes_.source;
    call.operand = operand_ + i * bytes_.operand;
    call.result = result_ + i * bytes_.result;
    call.team = &team;
    return compute(request_, call);
  }

  void run_piece(int64_t piece) {
    Alone alone;
    const int64_t end = examples_ * (piece + 1) / pieces_;
    for (int64_t i = examples_ * piece / pieces_; i < end; ++i) {
      std::string problem = run_one(i, alone);
      if (problem.empty()) continue;
      std::lock_guard<std::mutex> lock(mutex_);
      problem_ = std::move(problem);
      return;
    }
  }

  const Request& request_;
  const int64_t examples_;
  const char *source_, *operand_;
  char* result_;
  const Bytes bytes_;
  int64_t pieces_ = 1;
  std::mutex mutex_;
  std::string problem_;
};

}  // namespace

std::string run_examples(const Request& request, int64_t examples, const void* source,
                         const void* operand, void* result, Team& team) {
  if (examples == 1) return run(request, source, operand, result, team);
  const std::string reason = unsupported_reason(request);
  if (!reason.empty()) return reason;
  Examples all(request, examples, source, operand, result);
  prefer_large_pages(result, examples * bytes_of(request).result);
  // Few examples are large enough to divide, or too small for it to matter.
  const int64_t pieces = pieces_for(work_of(request) * examples, examples);
  return pieces >= 2 * team.members() ? all.side_by_side(team, pieces) : all.one_by_one(team);
}

}  // namespace jaxconv
