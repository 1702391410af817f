// The linear of the table: picks the kernel by the format of the job's weights.
// Included only by the kernels_*.cpp files (see vec.h).
#pragma once

#include "activations.h"
#include "linear.h"
#include "linear_bf16.h"
#include "linear_int4.h"

namespace flash {
namespace {

void linear_of_any_format(const LinearJob& job) {
    switch (job.format) {
    case LinearFormat::int8: linear(job); break;
    case LinearFormat::int4: linear_of<Int4>(job); break;
    case LinearFormat::bf16: linear_of<Bf16>(job); break;
    }
}

} // namespace
} // namespace flash
