// The copies of the engine for each instruction set, and which of them is in use.

#pragma once

#include <string>

#include "call.h"
#include "causal_call.h"

namespace jaxconv {

struct InstructionSet {
  const char* name;
  Compute depthwise[4], dense[4], pack[4];  // by Element
  SizePanels size_panels[4];
  ComputeCausal causal[4];
};

// At first the best that this machine supports, of those that the library was built for.
const InstructionSet& instruction_set();

// Uses another one, for tests; false if this machine or this build does not support it.
bool use_instruction_set(const std::string& name);

}  // namespace jaxconv
