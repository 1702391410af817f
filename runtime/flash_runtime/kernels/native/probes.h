// The binding of single kernels for parity tests.
#pragma once

#include <nanobind/nanobind.h>

#include "engine.h"
#include "select.h"

namespace flash {

void bind_probes(nanobind::module_& m);

} // namespace flash
