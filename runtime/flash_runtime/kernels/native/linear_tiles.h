// Cuts a job of any format but int8 into register tiles and writes their results. A format is a type with
//   template <int Rows, int Panels>
//   static void tile(const LinearJob&, const TileRows&, int panel, float (*out)[Panels][kLanes])
// that computes sums over all input features. Included only by the kernels_*.cpp files (see vec.h).
#pragma once

#include "vec.h"

namespace flash {
namespace {

constexpr int kMostRows = 6; // of a tile
constexpr int kFewRows = 2;  // up to here a tile waits for memory, not for arithmetic

struct TileRows {
    const int8_t* values[kMostRows]; // int4
    const float* scale[kMostRows];   // int4
    const float* rounded[kMostRows]; // bf16
    const uint8_t* next;             // weights of the tiles to come, or null
};

// What a tile of few rows requests from memory while it works: the weights that lie kAheadBytes further in its own
// stream, and near its end those of the tiles to come.
struct Stream {
    static constexpr ptrdiff_t kAheadBytes = 4096;
    const uint8_t* last; // from here on the stream goes on elsewhere
    ptrdiff_t jump;

    Stream(const uint8_t* weight, ptrdiff_t bytes, const uint8_t* next)
        : last(weight + bytes - kAheadBytes), jump(next ? next - (weight + bytes) : 0) {}
    ptrdiff_t ahead(const uint8_t* weight) const { return kAheadBytes + (weight >= last ? jump : 0); }
};

inline void find_rows(const LinearJob& job, int row, int rows, TileRows& out) {
    for (int r = 0; r < rows; ++r) {
        const ptrdiff_t from = job.row_index ? job.row_index[row + r] : row + r;
        const ptrdiff_t group = from * job.groups;
        out.values[r] = job.input.values + group * kGroup;
        out.scale[r] = job.input.scale + group * kInt4Scales;
        out.rounded[r] = job.input.rounded + group * kGroup;
    }
}

// out = (sums + bias) * factor for the real columns of one panel
inline void write_panel(const LinearJob& job, const float* sums, int row, int panel) {
    const int feature = panel * kLanes;
    const int column = feature - job.panel_begin * kLanes;
    const int count = job.columns - column;
    if (count <= 0) return;
    float* to = job.out + row * job.out_stride + column;
    const Vec bias = job.bias ? load_up_to(job.bias + feature, count) : Vec{};
    Vec value = (load(sums) + bias) * job.factor;
    if (job.accumulate) value = load_up_to(to, count) + value;
    store_up_to(to, value, count);
}

template <class Format, int Rows, int Panels>
void linear_tile_of(const LinearJob& job, const TileRows& rows, int row, int panel) {
    alignas(64) float sums[Rows][Panels][kLanes];
    Format::template tile<Rows, Panels>(job, rows, panel, sums);
    for (int r = 0; r < Rows; ++r) {
        for (int p = 0; p < Panels; ++p) write_panel(job, sums[r][p], row + r, panel + p);
    }
}

template <class Format, int Rows>
void linear_panels_of(const LinearJob& job, const TileRows& rows, int row, int panel, int panels) {
    switch (panels) {
    case 4: linear_tile_of<Format, Rows, 4>(job, rows, row, panel); break;
    case 2: linear_tile_of<Format, Rows, 2>(job, rows, row, panel); break;
    default: linear_tile_of<Format, Rows, 1>(job, rows, row, panel); break;
    }
}

template <class Format> void linear_of(const LinearJob& job) {
    TileRows rows;
    int panel = job.panel_begin;
    while (panel < job.panel_end) {
        const int left = job.panel_end - panel;
        const int panels = left >= 4 ? 4 : (left >= 2 ? 2 : 1);
        const size_t follows = static_cast<size_t>(panel + panels) * panel_bytes(job.format, job.groups);
        rows.next = panels == left ? job.next : job.weight + follows;
        for (int row = 0; row < job.rows; row += kMostRows) {
            const int count = job.rows - row < kMostRows ? job.rows - row : kMostRows;
            find_rows(job, row, count, rows);
            switch (count) {
            case 1: linear_panels_of<Format, 1>(job, rows, row, panel, panels); break;
            case 2: linear_panels_of<Format, 2>(job, rows, row, panel, panels); break;
            case 3: linear_panels_of<Format, 3>(job, rows, row, panel, panels); break;
            case 4: linear_panels_of<Format, 4>(job, rows, row, panel, panels); break;
            case 5: linear_panels_of<Format, 5>(job, rows, row, panel, panels); break;
            default: linear_panels_of<Format, 6>(job, rows, row, panel, panels); break;
            }
        }
        panel += panels;
    }
}

} // namespace
} // namespace flash
