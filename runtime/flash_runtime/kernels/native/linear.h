// The int8 linear: cuts a job into register tiles and writes their results. The file that includes it defines
//   template <int Rows, int Panels>
//   void dot_tile(const TileInput&, const uint8_t* weight, float (*out)[Panels][kLanes])
// which, group after group, adds float(integer dot product) * activation scale.
// Included only by the kernels_*.cpp files (see vec.h).
#pragma once

#include "vec.h"

namespace flash {
namespace {

constexpr int kTileRows = 6;
constexpr int kStreamRows = 2; // so few rows wait for memory: they take more panels at a time, one after the other

struct TileInput {
    const int8_t* values;      // row 0 of the activations
    ptrdiff_t row[kTileRows];  // where the tile's rows start
    const float* scale[kTileRows];
    const int32_t* offset[kTileRows];
    int groups;
    ptrdiff_t panel_stride;
    // While it works, a tile requests those groups g of the next tiles' weights for which g % next_step == next_first.
    const uint8_t* next; // as many panels, or null
    int next_first;
    int next_step;
};

template <int Rows, int Panels> void dot_tile(const TileInput& in, const uint8_t* weight, float (*out)[Panels][kLanes]);

template <int Rows, int Panels> void linear_tile(const LinearJob& job, const TileInput& in, int row, int panel) {
    alignas(64) float result[Rows][Panels][kLanes];
    dot_tile<Rows, Panels>(in, job.weight + panel * in.panel_stride, result);
    for (int p = 0; p < Panels; ++p) {
        const int feature = (panel + p) * kLanes;
        const int column = feature - job.panel_begin * kLanes;
        const int count = job.columns - column; // real columns from here on
        if (count <= 0) break;
        const Vec scale = load(job.weight_scale + feature);
        const Vec bias = job.bias ? load_up_to(job.bias + feature, count) : Vec{};
        for (int r = 0; r < Rows; ++r) {
            float* to = job.out + (row + r) * job.out_stride + column;
            Vec value = (load(result[r][p]) * scale + bias) * job.factor;
            if (job.accumulate) value = load_up_to(to, count) + value;
            store_up_to(to, value, count);
        }
    }
}

template <int Rows> void linear_rows(const LinearJob& job, const TileInput& in, int row, int panel, int panels) {
    switch (panels) {
    case 4:
        // four panels of many rows would not fit the registers
        if constexpr (Rows <= kStreamRows) linear_tile<Rows, 4>(job, in, row, panel);
        break;
    case 2: linear_tile<Rows, 2>(job, in, row, panel); break;
    default: linear_tile<Rows, 1>(job, in, row, panel); break;
    }
}

void linear(const LinearJob& job) {
    TileInput in;
    in.groups = job.groups;
    in.values = job.input.values;
    in.panel_stride = static_cast<ptrdiff_t>(job.groups) * kGroupLines * kLanes * 4;
    in.next_step = (job.rows + kTileRows - 1) / kTileRows;
    const int widest = job.rows <= kStreamRows ? 4 : 2;
    int panel = job.panel_begin;
    while (panel < job.panel_end) {
        const int left = job.panel_end - panel;
        const int panels = left >= widest ? widest : (left >= 2 ? 2 : 1);
        in.next = panels == left ? job.next : job.weight + (panel + panels) * in.panel_stride;
        in.next_first = 0;
        for (int row = 0; row < job.rows; row += kTileRows) {
            const int rows = job.rows - row < kTileRows ? job.rows - row : kTileRows;
            for (int r = 0; r < rows; ++r) {
                const ptrdiff_t from = job.row_index ? job.row_index[row + r] : row + r;
                in.row[r] = from * job.groups * kGroup;
                in.scale[r] = job.input.scale + from * job.groups;
                in.offset[r] = job.input.offset + from * job.groups;
            }
            switch (rows) {
            case 1: linear_rows<1>(job, in, row, panel, panels); break;
            case 2: linear_rows<2>(job, in, row, panel, panels); break;
            case 3: linear_rows<3>(job, in, row, panel, panels); break;
            case 4: linear_rows<4>(job, in, row, panel, panels); break;
            case 5: linear_rows<5>(job, in, row, panel, panels); break;
            default: linear_rows<6>(job, in, row, panel, panels); break;
            }
            ++in.next_first;
        }
        panel += panels;
    }
}

} // namespace
} // namespace flash
