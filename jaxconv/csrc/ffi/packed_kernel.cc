#include "ffi/packed_kernel.h"

#include <cstring>

#include "ffi/instruction_set.h"

namespace jaxconv {
namespace {

// One cache line, so that the panels after it are aligned like the array.
struct Header {
  char magic[8];  // with a version of the format
  char instruction_set[8];
  int32_t element;
  int32_t kernel[3], group_in, features, groups;
  int32_t vectors, lanes;  // of a panel
  int32_t unused[3];
};
static_assert(sizeof(Header) == 64, "a header is one cache line");

constexpr char kMagic[8] = {'j', 'a', 'x', 'c', 'o', 'n', 'v', 1};
constexpr const char* kElements[] = {"float32", "float64", "bfloat16", "float16"};

PanelSizes panel_sizes(const Request& r) {
  return instruction_set().size_panels[static_cast<int>(r.element)](geometry(r));
}

Header header_of(const Request& r) {
  const Geometry g = geometry(r);
  const PanelSizes panels = panel_sizes(r);
  Header h{};
  std::memcpy(h.magic, kMagic, sizeof h.magic);
  const char* name = instruction_set().name;
  std::memcpy(h.instruction_set, name, std::strlen(name));
  h.element = static_cast<int32_t>(r.element);
  for (int a = 0; a < 3; ++a) h.kernel[a] = static_cast<int32_t>(g.axis[a].kernel);
  h.group_in = static_cast<int32_t>(g.group_in());
  h.features = static_cast<int32_t>(g.features);
  h.groups = static_cast<int32_t>(g.groups);
  h.vectors = static_cast<int32_t>(panels.vectors);
  h.lanes = static_cast<int32_t>(panels.lanes);
  return h;
}

std::string kernel_of(const Header& h) {
  return to_string({h.kernel[0], h.kernel[1], h.kernel[2], h.group_in, h.features}) +
         " with groups=" + std::to_string(h.groups);
}

}  // namespace

int64_t packed_bytes(const Request& r) {
  const Geometry g = geometry(r);
  if (g.taps() * g.channels * g.features == 0 || is_depthwise(g)) return 0;
  return static_cast<int64_t>(sizeof(Header)) + panel_sizes(r).bytes;
}

std::string pack(const Request& r, const void* kernel, void* packed, int64_t bytes, Team& team) {
  const std::string reason = unsupported_reason(r);
  if (!reason.empty()) return reason;
  const int64_t expected = packed_bytes(r);
  if (expected == 0) return "depthwise and empty kernels are read in place and cannot be packed";
  if (bytes != expected) {
    return "the packed kernel must have " + std::to_string(expected) + " bytes, but has " +
           std::to_string(bytes);
  }
  const Header header = header_of(r);
  std::memcpy(packed, &header, sizeof header);
  Call call{};
  call.op = r.op;
  call.geometry = geometry(r);
  call.operand = kernel;
  call.result = static_cast<char*>(packed) + sizeof header;
  call.team = &team;
  const char* problem = instruction_set().pack[static_cast<int>(r.element)](call);
  return problem == nullptr ? "" : problem;
}

std::string check_packed(const Request& r, const PackedKernel& packed) {
  const std::string again = "; pack it again with pack_kernel";
  if (packed_bytes(r) == 0) return "depthwise and empty kernels are read in place, not packed";
  const Header expected = header_of(r);
  Header found{};
  if (packed.bytes >= static_cast<int64_t>(sizeof found)) {
    std::memcpy(&found, packed.data, sizeof found);
  }
  if (std::memcmp(found.magic, kMagic, sizeof kMagic) != 0) {
    return "the kernel was not packed by this version of the CPU engine" + again;
  }
  if (std::memcmp(found.instruction_set, expected.instruction_set, 8) != 0) {
    return "the kernel was packed for the instruction set " +
           std::string(found.instruction_set, strnlen(found.instruction_set, 8)) + ", but " +
           instruction_set().name + " is in use" + again;
  }
  if (found.element != expected.element) {
    const bool known = 0 <= found.element && found.element < 4;
    return std::string("the kernel was packed for ") +
           (known ? kElements[found.element] : "another type") + ", but the convolution computes " +
           kElements[expected.element] + again;
  }
  if (std::memcmp(&found, &expected, sizeof found) != 0 || packed.bytes != packed_bytes(r)) {
    return "the kernel was packed for shape " + kernel_of(found) + ", but the convolution has " +
           kernel_of(expected) + again;
  }
  return "";
}

const void* panels_of(const PackedKernel& packed) {
  return static_cast<const char*>(packed.data) + sizeof(Header);
}

}  // namespace jaxconv
