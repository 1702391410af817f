// Activations as int4 and bf16 linears read them; those of int8 linears are `quantise` itself.
// Included only by the kernels_*.cpp files (see vec.h).
#pragma once

#include "elementwise.h"

namespace flash {
namespace {

// int8 values as for int8 weights; per group its scale, and the scale times the sum of each half's values.
void quantise_halves(const float* x, int count, int8_t* values, float* scale) {
    for (int at = 0; at < count; at += kGroup, values += kGroup, scale += kInt4Scales) {
        int32_t offset;
        quantise(x + at, count - at < kGroup ? count - at : kGroup, values, scale, &offset);
        for (int half = 0; half < kInt4PerGroup; ++half) {
            int32_t total = 0;
            for (int i = 0; i < kInt4Group; ++i) total += values[half * kInt4Group + i];
            scale[1 + half] = static_cast<float>(total) * scale[0];
        }
    }
}

// x rounded to bfloat16 (nearest, ties to even) but kept as float, whole groups, the tail filled with zeros.
void round_bf16(const float* x, int count, float* out) {
    const int padded = (count + kGroup - 1) / kGroup * kGroup;
    for (int i = 0; i < padded; i += kLanes) {
        Vec value = i < count ? load_up_to(x + i, count - i) : Vec{};
        const BitVec bits = bf16_bits(value) & 0xffff0000u;
        std::memcpy(&value, &bits, sizeof value);
        store(out + i, value);
    }
}

} // namespace
} // namespace flash
