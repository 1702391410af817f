// The tiles of int8 and int4 linears in 256-bit registers: with the dot-product instruction (AVX-VNNI), or without it
// (AVX2). A panel is two registers wide; its rows are taken in blocks whose sums the sixteen registers hold.
// Included only by kernels_avx2.cpp and kernels_avxvnni.cpp.
#pragma once

#include <immintrin.h>

#include "table.h"

namespace flash {
namespace {

constexpr int kSides = 2; // registers of a panel

FLASH_INLINE __m256i quad_of(const int8_t* values) {
    int32_t four;
    std::memcpy(&four, values, sizeof four);
    return _mm256_set1_epi32(four);
}

FLASH_INLINE __m256i line_side(const uint8_t* line, int side) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + side * 32));
}

#if defined(__AVXVNNI__)
constexpr int kYmmRows = 6; // of a block

// sum += weights (u8) . values (s8), four products per lane. In assembly because the intrinsic makes GCC 12 copy every
// sum before each use.
FLASH_INLINE void add_dot(__m256i& sum, __m256i weights, __m256i values) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(weights), "x"(values));
}

struct ByteDot { // of weights shifted by kZeroPoint
    __m256i weights;
    explicit ByteDot(__m256i line) : weights(line) {}
    static __m256i start(int32_t offset) { return _mm256_set1_epi32(offset); }
    void add(__m256i& sum, __m256i values) const { add_dot(sum, weights, values); }
};

struct NibbleDot {
    static void add(__m256i& sum, __m256i weights, __m256i values) { add_dot(sum, weights, values); }
    static __m256i whole(__m256i sum) { return sum; }
};
#else
constexpr int kYmmRows = 4;

FLASH_INLINE __m256i pairs_added(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

// vpmaddubsw adds two products in 16 bits, and 2 * 255 * 127 is too large for them. The weights' sizes reach 128 only,
// so their signs move to the values: 2 * 128 * 127 fits. Values are never -128, which has no negative.
struct ByteDot {
    __m256i weights;
    __m256i sizes;
    explicit ByteDot(__m256i line)
        : weights(_mm256_xor_si256(line, _mm256_set1_epi8(-128))), sizes(_mm256_abs_epi8(weights)) {}
    static __m256i start(int32_t) { return _mm256_setzero_si256(); }
    void add(__m256i& sum, __m256i values) const {
        sum = _mm256_add_epi32(sum, pairs_added(_mm256_maddubs_epi16(sizes, _mm256_sign_epi8(values, weights))));
    }
};

// The sums of an int4 group fit 16 bits: eight quads of two products of at most 15 * 127 in each lane.
struct NibbleDot {
    static void add(__m256i& sum, __m256i weights, __m256i values) {
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, values));
    }
    static __m256i whole(__m256i sum) { return pairs_added(sum); }
};
static_assert(kInt4Group / 4 * 2 * 15 * 127 <= INT16_MAX);
#endif

FLASH_INLINE void add_scaled_dot(float* sums, __m256i dot, float scale) {
    const __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(scale));
    _mm256_storeu_ps(sums, _mm256_add_ps(_mm256_loadu_ps(sums), part));
}

// out[r * stride] += the int8 dot products of one panel, for `Rows` rows from `first` on
template <int Rows>
FLASH_INLINE void int8_panel(const TileInput& in, int first, const uint8_t* weight, float* out, ptrdiff_t stride) {
    for (int g = 0; g < in.groups; ++g) {
        __m256i dot[Rows][kSides];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) dot[r][0] = dot[r][1] = ByteDot::start(in.offset[first + r][g]);
        for (int line = 0; line < kGroupLines; ++line, weight += 64) {
#pragma GCC unroll 2
            for (int side = 0; side < kSides; ++side) {
                const ByteDot dots(line_side(weight, side));
#pragma GCC unroll 8
                for (int r = 0; r < Rows; ++r) {
                    dots.add(dot[r][side], quad_of(in.values + in.row[first + r] + g * kGroup + line * 4));
                }
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            add_scaled_dot(out + r * stride, dot[r][0], in.scale[first + r][g]);
            add_scaled_dot(out + r * stride + 8, dot[r][1], in.scale[first + r][g]);
        }
    }
}

template <int Rows, int Panels>
void dot_tile(const TileInput& in, const uint8_t* weight, float (*out)[Panels][kLanes]) {
    std::memset(out, 0, sizeof(float) * Rows * Panels * kLanes);
    constexpr int kBlock = Rows < kYmmRows ? Rows : kYmmRows;
    constexpr int kRest = Rows - kBlock;
    constexpr ptrdiff_t kStride = Panels * kLanes;
    for (int p = 0; p < Panels; ++p) {
        const uint8_t* panel = weight + p * in.panel_stride;
        int8_panel<kBlock>(in, 0, panel, out[0][p], kStride);
        if constexpr (kRest > 0) int8_panel<kRest>(in, kBlock, panel, out[kBlock][p], kStride);
    }
}

FLASH_INLINE void add_int4_part(float* sums, __m256i dot, __m256 d, __m256 m, float scale, float sum) {
    const __m256 product = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot), d), _mm256_set1_ps(scale));
    const __m256 part = _mm256_add_ps(product, _mm256_mul_ps(m, _mm256_set1_ps(sum)));
    _mm256_storeu_ps(sums, _mm256_add_ps(_mm256_loadu_ps(sums), part));
}

FLASH_INLINE __m256 half_side(const uint16_t* from, int side) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + side * 8)));
}

// As int8_panel, of int4 weights.
template <int Rows>
FLASH_INLINE void int4_panel(const Int4Input& in, const TileRows& rows, int first, int p, float* out,
                             ptrdiff_t stride) {
    const uint8_t* weight = in.weight + p * in.weight_stride;
    const uint16_t* scale = in.scale + p * in.group_stride;
    const uint16_t* min = in.min + p * in.group_stride;
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int g = 0; g < in.groups; ++g, scale += kLanes, min += kLanes) {
        __m256i dot[Rows][kSides];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
        for (int line = 0; line < kInt4Lines; ++line, weight += 64) {
#pragma GCC unroll 2
            for (int side = 0; side < kSides; ++side) {
                const __m256i both = line_side(weight, side);
                const __m256i low = _mm256_and_si256(both, nibble);
                const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
#pragma GCC unroll 8
                for (int r = 0; r < Rows; ++r) {
                    const int8_t* x = rows.values[first + r] + g * kInt4Group + line * 8;
                    NibbleDot::add(dot[r][side], low, quad_of(x));
                    NibbleDot::add(dot[r][side], high, quad_of(x + 4));
                }
            }
        }
#pragma GCC unroll 2
        for (int side = 0; side < kSides; ++side) {
            const __m256 d = half_side(scale, side);
            const __m256 m = half_side(min, side);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                add_int4_part(out + r * stride + side * 8, NibbleDot::whole(dot[r][side]), d, m,
                              group_scale(rows, first + r, g), half_sum(rows, first + r, g));
            }
        }
    }
}

template <int Rows, int Panels>
void int4_tile(const Int4Input& in, const TileRows& rows, float (*out)[Panels][kLanes]) {
    std::memset(out, 0, sizeof(float) * Rows * Panels * kLanes);
    constexpr int kBlock = Rows < kYmmRows ? Rows : kYmmRows;
    constexpr int kRest = Rows - kBlock;
    constexpr ptrdiff_t kStride = Panels * kLanes;
    for (int p = 0; p < Panels; ++p) {
        int4_panel<kBlock>(in, rows, 0, p, out[0][p], kStride);
        if constexpr (kRest > 0) int4_panel<kRest>(in, rows, kBlock, p, out[kBlock][p], kStride);
    }
}

} // namespace
} // namespace flash
