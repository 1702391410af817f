// The kernels that touch each value a few times: quantise, norms, rotary embedding, activation, softmax, router.
// Included only by the kernels_*.cpp files (see vec.h).
#pragma once

#include "vec.h"

namespace flash {
namespace {

constexpr float kSmallestMax = 1e-35f; // 127 / max stays finite above it

// larger() turns a NaN into -127 before the conversion to integers
FLASH_INLINE IntVec rounded_int8(Vec value) {
    return __builtin_convertvector(smaller(larger(nearest(value), splat(-127.0f)), splat(127.0f)), IntVec);
}

void quantise(const float* x, int count, int8_t* values, float* scale, int32_t* offset) {
    const int groups = (count + kGroup - 1) / kGroup;
    for (int g = 0; g < groups; ++g) {
        Vec part[4];
        IntVec top{};
        for (int i = 0; i < 4; ++i) {
            const int at = g * kGroup + i * kLanes;
            part[i] = at < count ? load_up_to(x + at, count - at) : Vec{};
            top = larger_magnitude(part[i], top);
        }
        // Not finite if any value is not: then the scale is not either, and so is everything computed from the group.
        const float max = largest_magnitude(top);
        const bool empty = max < kSmallestMax;
        const float inverse = empty ? 0.0f : 127.0f / max;
        IntVec totals{};
        for (int i = 0; i < 4; ++i) {
            const IntVec whole = rounded_int8(part[i] * inverse);
            const ByteVec bytes = narrow(whole);
            std::memcpy(values + g * kGroup + i * kLanes, &bytes, sizeof bytes);
            totals = totals + whole;
        }
        scale[g] = empty ? 0.0f : max / 127.0f;
        offset[g] = -kZeroPoint * sum(totals);
    }
}

void quantise_head(const float* x, int count, int8_t* values, float* scale) {
    IntVec top{};
    for (int i = 0; i < count; i += kLanes) top = larger_magnitude(load_up_to(x + i, count - i), top);
    const float max = largest_magnitude(top); // not finite if any value is not, as in quantise
    const bool empty = max < kSmallestMax;
    const float inverse = empty ? 0.0f : 127.0f / max;
    for (int i = 0; i < count; i += kLanes) {
        const int left = count - i < kLanes ? count - i : kLanes;
        const ByteVec bytes = narrow(rounded_int8(load_up_to(x + i, left) * inverse));
        std::memcpy(values + i, &bytes, static_cast<size_t>(left));
    }
    *scale = empty ? 0.0f : max / 127.0f;
}

void rms_norm(const float* x, const float* weight, int count, float epsilon, float* out) {
    Vec squares{};
    for (int i = 0; i < count; i += kLanes) {
        const Vec value = load_up_to(x + i, count - i);
        squares = squares + value * value;
    }
    const float inverse = 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(count) + epsilon);
    for (int i = 0; i < count; i += kLanes) {
        const Vec value = load_up_to(x + i, count - i) * inverse;
        store_up_to(out + i, value * load_up_to(weight + i, count - i), count - i);
    }
}

void rope(float* x, const float* cosine, const float* sine, int half) {
    for (int i = 0; i < half; i += kLanes) {
        const int left = half - i;
        const Vec c = load_up_to(cosine + i, left);
        const Vec s = load_up_to(sine + i, left);
        const Vec first = load_up_to(x + i, left);
        const Vec second = load_up_to(x + half + i, left);
        store_up_to(x + i, first * c - second * s, left);
        store_up_to(x + half + i, second * c + first * s, left);
    }
}

void swiglu(const float* gate, const float* up, int count, float* out) {
    for (int i = 0; i < count; i += kLanes) {
        const int left = count - i;
        const Vec g = load_up_to(gate + i, left);
        const Vec silu = g / (exponential(-g) + 1.0f);
        store_up_to(out + i, silu * load_up_to(up + i, left), left);
    }
}

void softmax(float* x, int count) {
    Vec top = splat(x[0]);
    for (int i = 0; i < count; i += kLanes) {
        const int left = count - i;
        // the padding lanes repeat x[0], not zero, which could be the largest
        Vec value = splat(x[0]);
        std::memcpy(&value, x + i, sizeof(float) * static_cast<size_t>(left < kLanes ? left : kLanes));
        top = larger(value, top);
    }
    const float max = largest(top);
    float total = 0.0f;
    for (int i = 0; i < count; i += kLanes) {
        const int left = count - i;
        store_up_to(x + i, exponential(load_up_to(x + i, left) - max), left);
        total += sum(load_up_to(x + i, left));
    }
    for (int i = 0; i < count; ++i) x[i] = x[i] / total;
}

float highest(const float* x, int count) {
    Vec top = splat(x[0]);
    IntVec magnitude{};
    for (int i = 0; i < count; i += kLanes) {
        const int left = count - i;
        // the padding lanes repeat x[0], as in softmax
        Vec value = splat(x[0]);
        std::memcpy(&value, x + i, sizeof(float) * static_cast<size_t>(left < kLanes ? left : kLanes));
        top = larger(value, top);
        magnitude = larger_magnitude(value, magnitude);
    }
    const float size = largest_magnitude(magnitude);
    return size != size ? size : largest(top);
}

template <int Tokens, int Experts>
FLASH_INLINE void router_tile(const float* x, const float* weight, int width, float* out, int stride) {
    Vec total[Tokens][Experts] = {};
    for (int i = 0; i < width; i += kLanes) {
        Vec w[Experts];
        for (int e = 0; e < Experts; ++e) w[e] = load_up_to(weight + e * width + i, width - i);
        for (int t = 0; t < Tokens; ++t) {
            const Vec value = load_up_to(x + t * width + i, width - i);
            for (int e = 0; e < Experts; ++e) total[t][e] = total[t][e] + value * w[e];
        }
    }
    for (int t = 0; t < Tokens; ++t) {
        for (int e = 0; e < Experts; ++e) out[t * stride + e] = sum(total[t][e]);
    }
}

void router(const float* x, int tokens, const float* weight, int experts, int width, float* out) {
    for (int t = 0; t < tokens; t += 4) {
        const float* rows = x + static_cast<ptrdiff_t>(t) * width;
        float* to = out + static_cast<ptrdiff_t>(t) * experts;
        for (int e = 0; e < experts; e += 4) {
            const float* columns = weight + static_cast<ptrdiff_t>(e) * width;
            if (tokens - t >= 4 && experts - e >= 4) {
                router_tile<4, 4>(rows, columns, width, to + e, experts);
                continue;
            }
            for (int i = 0; i < 4 && t + i < tokens; ++i) {
                const float* row = rows + static_cast<ptrdiff_t>(i) * width;
                float* row_out = to + static_cast<ptrdiff_t>(i) * experts + e;
                if (experts - e >= 4) {
                    router_tile<1, 4>(row, columns, width, row_out, experts);
                    continue;
                }
                for (int j = 0; e + j < experts; ++j) {
                    router_tile<1, 1>(row, columns + static_cast<ptrdiff_t>(j) * width, width, row_out + j, experts);
                }
            }
        }
    }
}

void add_scaled(const float* x, float factor, int count, float* out) {
    for (int i = 0; i < count; i += kLanes) {
        const int left = count - i;
        store_up_to(out + i, load_up_to(out + i, left) + load_up_to(x + i, left) * factor, left);
    }
}

void to_bf16(const float* x, int count, uint16_t* out) {
    for (int i = 0; i < count; i += kLanes) {
        const int left = count - i < kLanes ? count - i : kLanes;
        const HalfVec half = as_bf16(load_up_to(x + i, left));
        std::memcpy(out + i, &half, sizeof(uint16_t) * static_cast<size_t>(left));
    }
}

} // namespace
} // namespace flash
