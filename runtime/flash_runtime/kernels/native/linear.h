// The int8 linear: cuts a job into register tiles and writes their results. The file that includes it defines
//   template <int Rows, int Panels>
//   void dot_tile(const TileInput&, const uint8_t* weight, float (*out)[Panels][kLanes])
// which, group after group, adds float(integer dot product) * activation scale.
// Included only by the kernels_*.cpp files (see vec.h).
#pragma once

#include "vec.h"

namespace flash {
namespace {

constexpr int kTilePanels = 2;
constexpr int kTileRows = 6; // of kTilePanels panels
#if defined(__AVX512F__)
constexpr int kAloneRows = 12; // of one panel: the registers hold their sums, too
#else
constexpr int kAloneRows = kTileRows;
#endif

struct TileInput {
    const int8_t* values;       // row 0 of the activations
    ptrdiff_t row[kAloneRows];  // where the tile's rows start
    const float* scale[kAloneRows];
    const int32_t* offset[kAloneRows];
    int groups;
    ptrdiff_t panel_stride;
    // Weights to come, or null. A tile alone in its job reads its weights once and waits for them: it requests what
    // follows in its own stream, which goes on at `next`. One of several tiles of the same panels finds its weights in
    // the cache: for each group it requests next_lines lines, from `next` on.
    bool alone;
    const uint8_t* next;
    int next_lines;

    void find_rows(const LinearJob& job, int begin, int count) {
        for (int r = 0; r < count; ++r) {
            const ptrdiff_t from = job.row_index ? job.row_index[begin + r] : begin + r;
            row[r] = from * groups * kGroup;
            scale[r] = job.input.scale + from * groups;
            offset[r] = job.input.offset + from * groups;
        }
    }
};

template <int Rows, int Panels> void dot_tile(const TileInput& in, const uint8_t* weight, float (*out)[Panels][kLanes]);

template <int Rows, int Panels> void linear_tile(const LinearJob& job, const TileInput& in, int row, int panel) {
    alignas(64) float result[Rows][Panels][kLanes];
    if (!in.alone) { // rows lie pages apart: what will be written is on its way meanwhile
        for (int r = 0; r < Rows; ++r) {
            const float* to = job.out + (row + r) * job.out_stride + (panel - job.panel_begin) * kLanes;
            for (int p = 0; p < Panels; ++p) __builtin_prefetch(to + p * kLanes, 1);
        }
    }
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

// All rows of the job in one tile: one panel after the other, in address order.
template <int Rows> void linear_alone(const LinearJob& job, TileInput& in) {
    if constexpr (Rows > 1) {
        if (job.rows < Rows) {
            linear_alone<Rows - 1>(job, in);
            return;
        }
    }
    in.alone = true;
    in.find_rows(job, 0, Rows);
    for (int panel = job.panel_begin; panel < job.panel_end; ++panel) {
        in.next = panel + 1 < job.panel_end ? job.weight + (panel + 1) * in.panel_stride : job.next;
        linear_tile<Rows, 1>(job, in, 0, panel);
    }
}

template <int Rows> void linear_rows(const LinearJob& job, const TileInput& in, int row, int panel, int panels) {
    if (panels == kTilePanels) {
        linear_tile<Rows, kTilePanels>(job, in, row, panel);
    } else {
        linear_tile<Rows, 1>(job, in, row, panel);
    }
}

// Each panel, or two, for one tile of rows after the other.
void linear_in_tiles(const LinearJob& job, TileInput& in) {
    in.alone = false;
    const int tiles = (job.rows + kTileRows - 1) / kTileRows;
    for (int panel = job.panel_begin; panel < job.panel_end; panel += kTilePanels) {
        const int left = job.panel_end - panel;
        const int panels = left < kTilePanels ? left : kTilePanels;
        in.next = panels == left ? job.next : job.weight + (panel + panels) * in.panel_stride;
        in.next_lines = in.next ? (panels * kGroupLines + tiles - 1) / tiles : 0;
        int row = 0;
        for (int tile = 0; tile < tiles; ++tile) {
            const int rows = job.rows * (tile + 1) / tiles - row; // even: a tile of few rows costs nearly as much
            in.find_rows(job, row, rows);
            switch (rows) {
            case 3: linear_rows<3>(job, in, row, panel, panels); break;
            case 4: linear_rows<4>(job, in, row, panel, panels); break;
            case 5: linear_rows<5>(job, in, row, panel, panels); break;
            default: linear_rows<6>(job, in, row, panel, panels); break;
            }
            row += rows;
            if (in.next) in.next += static_cast<ptrdiff_t>(in.next_lines) * in.groups * 64;
        }
    }
}
// more than kAloneRows rows in so even tiles have three at least
static_assert(kAloneRows >= kTileRows && kTileRows == 6);

void linear(const LinearJob& job) {
    if (job.rows <= 0) return;
    TileInput in;
    in.groups = job.groups;
    in.values = job.input.values;
    in.panel_stride = static_cast<ptrdiff_t>(job.groups) * kGroupLines * kLanes * 4;
    if (job.rows <= kAloneRows) {
        linear_alone<kAloneRows>(job, in);
    } else {
        linear_in_tiles(job, in);
    }
}

} // namespace
} // namespace flash
