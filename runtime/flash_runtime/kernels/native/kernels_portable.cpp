// The kernel table for any CPU: plain loops, compiled for the platform's baseline.
#include "table.h"

namespace flash {
namespace {

template <int Rows, int Panels>
void dot_tile(const TileInput& in, const uint8_t* weight, float (*out)[Panels][kLanes]) {
    for (int p = 0; p < Panels; ++p) {
        for (int r = 0; r < Rows; ++r) {
            Vec total{};
            for (int g = 0; g < in.groups; ++g) {
                const uint8_t* w = weight + p * in.panel_stride + g * kGroupLines * 64;
                const int8_t* x = in.values + in.row[r] + g * kGroup;
                int32_t dot[kLanes];
                for (int lane = 0; lane < kLanes; ++lane) dot[lane] = in.offset[r][g];
                for (int line = 0; line < kGroupLines; ++line, w += 64, x += 4) {
                    for (int lane = 0; lane < kLanes; ++lane) {
                        dot[lane] += w[lane * 4] * x[0] + w[lane * 4 + 1] * x[1] + w[lane * 4 + 2] * x[2] +
                                     w[lane * 4 + 3] * x[3];
                    }
                }
                IntVec whole;
                std::memcpy(&whole, dot, sizeof whole);
                total = total + __builtin_convertvector(whole, Vec) * in.scale[r][g];
            }
            store(out[r][p], total);
        }
    }
}

template <int Rows, int Panels>
void int4_tile(const Int4Input& in, const TileRows& rows, float (*out)[Panels][kLanes]) {
    for (int p = 0; p < Panels; ++p) {
        for (int r = 0; r < Rows; ++r) {
            Vec total{};
            for (int g = 0; g < in.groups; ++g) {
                const uint8_t* w = in.weight + p * in.weight_stride + g * kInt4Lines * 64;
                const int8_t* x = rows.values[r] + g * kInt4Group;
                int32_t dot[kLanes] = {};
                for (int line = 0; line < kInt4Lines; ++line, w += 64, x += 8) {
                    for (int lane = 0; lane < kLanes; ++lane) {
                        for (int i = 0; i < 4; ++i) {
                            const int both = w[lane * 4 + i];
                            dot[lane] += (both & 15) * x[i] + (both >> 4) * x[4 + i];
                        }
                    }
                }
                IntVec whole;
                std::memcpy(&whole, dot, sizeof whole);
                const ptrdiff_t at = p * in.group_stride + g * kLanes;
                total = total + int4_part(__builtin_convertvector(whole, Vec), from_half(in.scale + at),
                                          from_half(in.min + at), group_scale(rows, r, g), half_sum(rows, r, g));
            }
            store(out[r][p], total);
        }
    }
}

} // namespace

const Kernels& portable_kernels() {
    static constexpr Kernels table = kernel_table("portable");
    return table;
}

} // namespace flash
