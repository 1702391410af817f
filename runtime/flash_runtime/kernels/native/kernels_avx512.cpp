// The AVX-512 VNNI kernel table. Only this file is compiled with AVX-512 flags; it is entered after a CPU check.
#include <immintrin.h>

#include "table.h"

namespace flash {
namespace {

constexpr ptrdiff_t kStreamBytes = 4096; // how far ahead a tile alone, which waits for memory, requests weights

// sum += weights (u8) . values (s8), four products per lane. In assembly because the intrinsic makes GCC 12 copy every
// sum before each use.
FLASH_INLINE void add_dot(__m512i& sum, __m512i weights, __m512i values) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(values));
}

// A tile alone waits for memory: it has several partial sums for each of few rows, so that there are always enough
// that do not depend on each other (integer sums are exact in any order).
template <int Rows> FLASH_INLINE void stream_tile(const TileInput& in, const uint8_t* weight, float (*out)[1][kLanes]) {
    constexpr int kPartial = Rows <= 2 ? 4 : Rows <= 4 ? 3 : Rows <= 8 ? 2 : 1;
    // the stream goes on into the next tile's weights, where those follow
    const uint8_t* end = weight + in.panel_stride - kStreamBytes;
    const ptrdiff_t jump = in.next ? in.next - (weight + in.panel_stride) : 0;
    Vec total[Rows];
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) total[r] = Vec{};
    for (int g = 0; g < in.groups; ++g) {
        __m512i dot[Rows][kPartial];
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r) {
            dot[r][0] = _mm512_set1_epi32(in.offset[r][g]);
#pragma GCC unroll 4
            for (int i = 1; i < kPartial; ++i) dot[r][i] = _mm512_setzero_si512();
        }
        const int8_t* x = in.values + g * kGroup;
        const uint8_t* soon = weight + kStreamBytes + (weight >= end ? jump : 0);
#pragma GCC unroll 16
        for (int line = 0; line < kGroupLines; ++line) {
            const __m512i w = _mm512_loadu_si512(weight + line * 64);
            __builtin_prefetch(soon + line * 64);
#pragma GCC unroll 12
            for (int r = 0; r < Rows; ++r) {
                int32_t four;
                std::memcpy(&four, x + in.row[r] + line * 4, sizeof four);
                add_dot(dot[r][line % kPartial], w, _mm512_set1_epi32(four));
            }
        }
        weight += kGroupLines * 64;
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r) {
            __m512i whole = dot[r][0];
#pragma GCC unroll 4
            for (int i = 1; i < kPartial; ++i) whole = _mm512_add_epi32(whole, dot[r][i]);
            const Vec part = __builtin_convertvector(reinterpret_cast<IntVec>(whole), Vec);
            total[r] = total[r] + part * splat(in.scale[r][g]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) store(out[r][0], total[r]);
}

// Fully unrolled, so that the sums of a tile stay in registers: 2 * Rows * Panels of the 32, plus operands.
template <int Rows, int Panels>
FLASH_INLINE void dot_tile(const TileInput& in, const uint8_t* weight, float (*out)[Panels][kLanes]) {
    if constexpr (Panels == 1) {
        if (in.alone || Rows > kTileRows) {
            stream_tile<Rows>(in, weight, out);
            return;
        }
    }
    Vec total[Rows][Panels];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
        for (int p = 0; p < Panels; ++p) total[r][p] = Vec{};
    }
    const uint8_t* next = in.next;
    for (int g = 0; g < in.groups; ++g) {
        // into the L2 cache: the L1 is in use
        for (int line = 0; line < in.next_lines; ++line, next += 64) __builtin_prefetch(next, 0, 2);
        __m512i dot[Rows][Panels];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
            for (int p = 0; p < Panels; ++p) dot[r][p] = _mm512_set1_epi32(in.offset[r][g]);
        }
        // all lines unrolled, and pointers that hold for this group alone: their addresses become constant offsets
        const int8_t* x[Rows];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            x[r] = in.values + in.row[r] + g * kGroup;
            asm("" : "+r"(x[r]));
        }
#pragma GCC unroll 16
        for (int line = 0; line < kGroupLines; ++line) {
            __m512i w[Panels];
#pragma GCC unroll 8
            for (int p = 0; p < Panels; ++p) w[p] = _mm512_loadu_si512(weight + line * 64 + p * in.panel_stride);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                int32_t four;
                std::memcpy(&four, x[r] + line * 4, sizeof four);
                const __m512i quad = _mm512_set1_epi32(four);
#pragma GCC unroll 8
                for (int p = 0; p < Panels; ++p) add_dot(dot[r][p], w[p], quad);
            }
        }
        weight += kGroupLines * 64;
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const Vec scale = splat(in.scale[r][g]);
#pragma GCC unroll 8
            for (int p = 0; p < Panels; ++p) {
                total[r][p] = total[r][p] + __builtin_convertvector(reinterpret_cast<IntVec>(dot[r][p]), Vec) * scale;
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
        for (int p = 0; p < Panels; ++p) store(out[r][p], total[r][p]);
    }
}

FLASH_INLINE __m512i low_nibbles(__m512i both) { return _mm512_and_si512(both, _mm512_set1_epi8(15)); }

FLASH_INLINE __m512i high_nibbles(__m512i both) { return low_nibbles(_mm512_srli_epi16(both, 4)); }

FLASH_INLINE __m512i quad_of(const int8_t* values) {
    int32_t four;
    std::memcpy(&four, values, sizeof four);
    return _mm512_set1_epi32(four);
}

FLASH_INLINE Vec as_floats(__m512i whole) { return __builtin_convertvector(reinterpret_cast<IntVec>(whole), Vec); }

// One or two rows of int4 weights: panel after panel, in address order, as stream_tile.
template <int Rows, int Panels>
FLASH_INLINE void int4_stream(const Int4Input& in, const TileRows& rows, float (*out)[Panels][kLanes]) {
    const Stream stream(in.weight, Panels * in.weight_stride, rows.next);
    const uint8_t* weight = in.weight;
    const uint16_t* scale = in.scale;
    const uint16_t* min = in.min;
    for (int p = 0; p < Panels; ++p) {
        Vec total[Rows] = {};
        for (int g = 0; g < in.groups; ++g, scale += kLanes, min += kLanes) {
            const ptrdiff_t ahead = stream.ahead(weight);
            if (g % kInt4PerGroup == 0) { // a line holds d or m of two groups
                __builtin_prefetch(scale + ahead / kInt4PerScale);
                __builtin_prefetch(min + ahead / kInt4PerScale);
            }
            __m512i low[Rows];
            __m512i high[Rows];
#pragma GCC unroll 2
            for (int r = 0; r < Rows; ++r) low[r] = high[r] = _mm512_setzero_si512();
#pragma GCC unroll 4
            for (int line = 0; line < kInt4Lines; ++line, weight += 64) {
                const __m512i both = _mm512_loadu_si512(weight);
                __builtin_prefetch(weight + ahead);
                const __m512i first = low_nibbles(both);
                const __m512i second = high_nibbles(both);
#pragma GCC unroll 2
                for (int r = 0; r < Rows; ++r) {
                    const int8_t* x = rows.values[r] + g * kInt4Group + line * 8;
                    add_dot(low[r], first, quad_of(x));
                    add_dot(high[r], second, quad_of(x + 4));
                }
            }
            const Vec d = from_half(scale);
            const Vec m = from_half(min);
#pragma GCC unroll 2
            for (int r = 0; r < Rows; ++r) {
                const Vec dot = as_floats(_mm512_add_epi32(low[r], high[r]));
                total[r] = total[r] + int4_part(dot, d, m, group_scale(rows, r, g), half_sum(rows, r, g));
            }
        }
        for (int r = 0; r < Rows; ++r) store(out[r][p], total[r]);
    }
}

// One quad of input features: the low nibbles of a line for Shift 0, the high ones for Shift 4.
template <int Rows, int Panels, int Shift>
FLASH_INLINE void add_quad(const uint8_t* line, ptrdiff_t stride, const int8_t* const* values, int at,
                           __m512i (&dot)[Rows][Panels]) {
    __m512i w[Panels];
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) {
        const __m512i both = _mm512_loadu_si512(line + p * stride);
        w[p] = Shift ? high_nibbles(both) : low_nibbles(both);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
        const __m512i x = quad_of(values[r] + at);
#pragma GCC unroll 8
        for (int p = 0; p < Panels; ++p) add_dot(dot[r][p], w[p], x);
    }
}

// The integer sums of a group stay in registers, the float sums in memory: those are touched once in a group only.
template <int Rows, int Panels>
FLASH_INLINE void int4_tile(const Int4Input& in, const TileRows& rows, float (*out)[Panels][kLanes]) {
    if constexpr (Rows <= kFewRows) {
        int4_stream<Rows, Panels>(in, rows, out);
        return;
    }
    std::memset(out, 0, sizeof(float) * Rows * Panels * kLanes);
    const uint8_t* weight = in.weight;
    for (int g = 0; g < in.groups; ++g) {
        __m512i dot[Rows][Panels];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
            for (int p = 0; p < Panels; ++p) dot[r][p] = _mm512_setzero_si512();
        }
        for (int line = 0; line < kInt4Lines; ++line, weight += 64) {
            const int at = g * kInt4Group + line * 8;
            add_quad<Rows, Panels, 0>(weight, in.weight_stride, rows.values, at, dot);
            add_quad<Rows, Panels, 4>(weight, in.weight_stride, rows.values, at + 4, dot);
        }
#pragma GCC unroll 8
        for (int p = 0; p < Panels; ++p) {
            const ptrdiff_t at = p * in.group_stride + g * kLanes;
            const Vec d = from_half(in.scale + at);
            const Vec m = from_half(in.min + at);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                const Vec part = int4_part(as_floats(dot[r][p]), d, m, group_scale(rows, r, g), half_sum(rows, r, g));
                store(out[r][p], load(out[r][p]) + part);
            }
        }
    }
}

} // namespace

const Kernels& avx512_kernels() {
    static constexpr Kernels table = kernel_table("avx512");
    return table;
}

} // namespace flash
