// Which kernel tables this CPU can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace flash {

std::vector<std::string> supported_isas();            // fastest first
const Kernels& kernels_named(const std::string& isa); // throws std::invalid_argument

} // namespace flash
