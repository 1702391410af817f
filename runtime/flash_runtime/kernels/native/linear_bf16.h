// The bf16 linear, in vectors as wide as the registers. Products and sums are float; even and odd input features are
// summed apart, in order, and added at the end. Included only by the kernels_*.cpp files (see vec.h).
#pragma once

#include "linear_tiles.h"

namespace flash {
namespace {

constexpr int kTilePanels16 = kWide == 16 ? 2 : 1; // panels whose sums the registers hold for kMostRows rows
constexpr int kLineElements = kLanes * 2;

// Sums of `Panels` slices, one per panel, of the lines that start at `weight`.
template <int Rows, int Panels>
FLASH_INLINE void bf16_sums(const uint16_t* weight, ptrdiff_t panel_stride, const float* const* x, int columns,
                            const Stream& stream, Wide (*out)[Panels]) {
    Wide even[Rows][Panels] = {};
    Wide odd[Rows][Panels] = {};
    for (int k = 0; k < columns; k += 2, weight += kLineElements) {
        Wide low[Panels];
        Wide high[Panels];
#pragma GCC unroll 4
        for (int p = 0; p < Panels; ++p) {
            WideBits bits;
            std::memcpy(&bits, weight + p * panel_stride, sizeof bits);
            if constexpr (Rows <= kFewRows) {
                const uint8_t* line = reinterpret_cast<const uint8_t*>(weight + p * panel_stride);
                __builtin_prefetch(line + stream.ahead(line));
            }
            low[p] = as_wide(bits << 16);
            high[p] = as_wide(bits & 0xffff0000u);
        }
#pragma GCC unroll 6
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
            for (int p = 0; p < Panels; ++p) {
                even[r][p] = even[r][p] + low[p] * x[r][k];
                odd[r][p] = odd[r][p] + high[p] * x[r][k + 1];
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
        for (int p = 0; p < Panels; ++p) out[r][p] = even[r][p] + odd[r][p];
    }
}

struct Bf16 {
    template <int Rows, int Panels>
    static void tile(const LinearJob& job, const TileRows& rows, int panel, float (*out)[Panels][kLanes]) {
        // few rows read panel after panel, in address order
        constexpr int kTogether = Rows <= kFewRows || Panels < kTilePanels16 ? 1 : kTilePanels16;
        const int columns = job.groups * kGroup;
        const ptrdiff_t stride = static_cast<ptrdiff_t>(columns) * kLanes;
        const uint16_t* weight = reinterpret_cast<const uint16_t*>(job.weight) + panel * stride;
        const Stream stream(job.weight + panel * stride * 2, Panels * stride * 2, rows.next);
        for (int p = 0; p < Panels; p += kTogether) {
            for (int slice = 0; slice < kSlices; ++slice) {
                Wide sums[Rows][kTogether];
                bf16_sums<Rows, kTogether>(weight + p * stride + slice * kWide * 2, stride, rows.rounded, columns,
                                           stream, sums);
                for (int r = 0; r < Rows; ++r) {
                    for (int i = 0; i < kTogether; ++i) {
                        std::memcpy(out[r][p + i] + slice * kWide, &sums[r][i], sizeof(Wide));
                    }
                }
            }
        }
    }
};

} // namespace
} // namespace flash
