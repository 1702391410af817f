// The kernel table of the file that includes it, which defines the tiles of int8 (linear.h) and int4 (linear_int4.h).
// Included only by the kernels_*.cpp files (see vec.h).
#pragma once

#include "attention.h"
#include "linear_formats.h"

namespace flash {
namespace {

constexpr Kernels kernel_table(const char* name) {
    return {.name = name,
            .quantise = quantise,
            .linear = linear_of_any_format,
            .attention = attention,
            .attention_parts = attention_parts,
            .attention_merge = attention_merge,
            .rms_norm = rms_norm,
            .rope = rope,
            .swiglu = swiglu,
            .softmax = softmax,
            .highest = highest,
            .router = router,
            .add_scaled = add_scaled,
            .to_bf16 = to_bf16,
            .quantise_head = quantise_head,
            .quantise_halves = quantise_halves,
            .round_bf16 = round_bf16};
}

} // namespace
} // namespace flash
