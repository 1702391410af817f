// The AVX-512 VNNI kernel table. Only this file is compiled with AVX-512 flags; it is entered after a CPU check.
#include <immintrin.h>

#include "attention.h"
#include "elementwise.h"
#include "linear.h"

namespace flash {
namespace {

constexpr ptrdiff_t kStreamBytes = 4096; // how far ahead of single rows, which wait for memory, weights are requested

// sum += weights (u8) . values (s8), four products per lane. In assembly because the intrinsic makes GCC 12 copy every
// sum before each use.
FLASH_INLINE void add_dot(__m512i& sum, __m512i weights, __m512i values) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(values));
}

// Asks memory for the next tiles' weights of group g, if this tile is the one to do so.
template <int Panels> FLASH_INLINE void request_next(const TileInput& in, int g, int& due) {
    if (g != due) return;
    due += in.next_step;
    if (!in.next) return;
    const uint8_t* group = in.next + static_cast<ptrdiff_t>(g) * kGroupLines * 64;
    for (int p = 0; p < Panels; ++p, group += in.panel_stride) {
#pragma GCC unroll 16
        for (int line = 0; line < kGroupLines; ++line) __builtin_prefetch(group + line * 64, 0, 2); // into the L2 cache: the L1 is in use
    }
}

// One or two rows wait for memory, not for arithmetic: panels are read one after the other, in address order, into
// several partial sums per row (integer sums are exact in any order).
template <int Rows, int Panels>
FLASH_INLINE void stream_tile(const TileInput& in, const uint8_t* weight, float (*out)[Panels][kLanes]) {
    constexpr int kPartial = 4;
    // the stream goes on into the next tiles' weights, where those follow
    const ptrdiff_t ahead = kStreamBytes;
    const uint8_t* end = weight + Panels * in.panel_stride - ahead;
    const ptrdiff_t jump = in.next ? in.next - (weight + Panels * in.panel_stride) : 0;
    for (int p = 0; p < Panels; ++p) {
        Vec total[Rows];
#pragma GCC unroll 2
        for (int r = 0; r < Rows; ++r) total[r] = Vec{};
        for (int g = 0; g < in.groups; ++g) {
            __m512i dot[Rows][kPartial];
#pragma GCC unroll 2
            for (int r = 0; r < Rows; ++r) {
                dot[r][0] = _mm512_set1_epi32(in.offset[r][g]);
#pragma GCC unroll 4
                for (int i = 1; i < kPartial; ++i) dot[r][i] = _mm512_setzero_si512();
            }
            const int8_t* x = in.values + g * kGroup;
            const uint8_t* soon = weight + ahead + (weight >= end ? jump : 0);
#pragma GCC unroll 16
            for (int line = 0; line < kGroupLines; ++line) {
                const __m512i w = _mm512_loadu_si512(weight + line * 64);
                __builtin_prefetch(soon + line * 64);
#pragma GCC unroll 2
                for (int r = 0; r < Rows; ++r) {
                    int32_t four;
                    std::memcpy(&four, x + in.row[r] + line * 4, sizeof four);
                    add_dot(dot[r][line % kPartial], w, _mm512_set1_epi32(four));
                }
            }
            weight += kGroupLines * 64;
#pragma GCC unroll 2
            for (int r = 0; r < Rows; ++r) {
                const __m512i low = _mm512_add_epi32(dot[r][0], dot[r][1]);
                const __m512i whole = _mm512_add_epi32(low, _mm512_add_epi32(dot[r][2], dot[r][3]));
                const Vec part = __builtin_convertvector(reinterpret_cast<IntVec>(whole), Vec);
                total[r] = total[r] + part * splat(in.scale[r][g]);
            }
        }
#pragma GCC unroll 2
        for (int r = 0; r < Rows; ++r) store(out[r][p], total[r]);
    }
}

// Fully unrolled, so that the sums of a tile stay in registers: 2 * Rows * Panels of the 32, plus operands.
template <int Rows, int Panels>
FLASH_INLINE void dot_tile(const TileInput& in, const uint8_t* weight, float (*out)[Panels][kLanes]) {
    if constexpr (Rows <= kStreamRows) {
        stream_tile<Rows, Panels>(in, weight, out);
        return;
    }
    Vec total[Rows][Panels];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
        for (int p = 0; p < Panels; ++p) total[r][p] = Vec{};
    }
    int due = in.next_first;
    for (int g = 0; g < in.groups; ++g) {
        request_next<Panels>(in, g, due);
        __m512i dot[Rows][Panels];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
            for (int p = 0; p < Panels; ++p) dot[r][p] = _mm512_set1_epi32(in.offset[r][g]);
        }
        const int8_t* x = in.values + g * kGroup;
        for (int line = 0; line < kGroupLines; ++line, weight += 64, x += 4) {
            __m512i w[Panels];
#pragma GCC unroll 8
            for (int p = 0; p < Panels; ++p) w[p] = _mm512_loadu_si512(weight + p * in.panel_stride);
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                int32_t four;
                std::memcpy(&four, x + in.row[r], sizeof four);
                const __m512i quad = _mm512_set1_epi32(four);
#pragma GCC unroll 8
                for (int p = 0; p < Panels; ++p) add_dot(dot[r][p], w[p], quad);
            }
        }
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

} // namespace

const Kernels& avx512_kernels() {
    static constexpr Kernels table{"avx512", quantise, linear,  attention, rms_norm,   rope,
                                   swiglu,   softmax,  router, add_scaled, to_bf16};
    return table;
}

} // namespace flash
