// The int4 linear: where a tile's operands lie. The file that includes it defines
//   template <int Rows, int Panels> void int4_tile(const Int4Input&, const TileRows&, float (*out)[Panels][kLanes])
// which adds, int4 group after int4 group, float(integer dot product) * d * scale + m * (scale * sum of values).
// Included only by the kernels_*.cpp files (see vec.h).
#pragma once

#include "linear_tiles.h"

namespace flash {
namespace {

constexpr int kInt4Lines = kInt4Group / 8; // weight lines of one int4 group in one panel

struct Int4Input { // at the tile's first panel
    const uint8_t* weight;
    const uint16_t* scale;
    const uint16_t* min;
    ptrdiff_t weight_stride; // from panel to panel
    ptrdiff_t group_stride;
    int groups; // int4 groups
};

// Bytes of weights to one element of d or m: what lies so far ahead in one stream lies so far in the others.
constexpr ptrdiff_t kInt4PerScale = kInt4Group / 2;

template <int Rows, int Panels> void int4_tile(const Int4Input& in, const TileRows& rows, float (*out)[Panels][kLanes]);

struct Int4 {
    template <int Rows, int Panels>
    static void tile(const LinearJob& job, const TileRows& rows, int panel, float (*out)[Panels][kLanes]) {
        Int4Input in;
        in.groups = job.groups * kInt4PerGroup;
        in.weight_stride = static_cast<ptrdiff_t>(panel_bytes(LinearFormat::int4, job.groups));
        in.group_stride = static_cast<ptrdiff_t>(in.groups) * kLanes;
        in.weight = job.weight + panel * in.weight_stride;
        in.scale = job.group_scale + panel * in.group_stride;
        in.min = job.group_min + panel * in.group_stride;
        int4_tile<Rows, Panels>(in, rows, out);
    }
};

// What one int4 group adds to a row's sums. `scale`: of the row's activation group; `sum`: scale * sum of its half.
FLASH_INLINE Vec int4_part(Vec dot, Vec d, Vec m, float scale, float sum) { return dot * d * scale + m * sum; }

FLASH_INLINE float group_scale(const TileRows& rows, int r, int g) {
    return rows.scale[r][g / kInt4PerGroup * kInt4Scales];
}

FLASH_INLINE float half_sum(const TileRows& rows, int r, int g) {
    return rows.scale[r][g / kInt4PerGroup * kInt4Scales + 1 + g % kInt4PerGroup];
}

} // namespace
} // namespace flash
