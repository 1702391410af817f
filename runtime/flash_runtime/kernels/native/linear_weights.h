// One linear's packed weights by pointer, in any format. Knows the layout and no arithmetic but that of reading a row.
#pragma once

#include "kernels.h"

namespace flash {

// A linear, or experts of them one after the other. `weight` and its companions are laid out as layout.py says.
struct Linear {
    LinearFormat format = LinearFormat::int8;
    const uint8_t* weight = nullptr;
    const float* scale = nullptr;          // int8: [panels][kLanes]
    const uint16_t* group_scale = nullptr; // int4: d as float16 [panels][int4 groups][kLanes]
    const uint16_t* group_min = nullptr;   // int4: m
    const float* bias = nullptr;           // null: none
    int features = 0;                      // N
    int inputs = 0;                        // K

    int panels() const { return (features + kLanes - 1) / kLanes; }
    int groups() const { return (inputs + kGroup - 1) / kGroup; }
    ptrdiff_t panel_bytes() const { return static_cast<ptrdiff_t>(flash::panel_bytes(format, groups())); }
    const uint8_t* panel(int index) const { return weight + index * panel_bytes(); }
    size_t weight_bytes() const { return static_cast<size_t>(panels() * panel_bytes()); } // of one expert
    size_t group_count() const; // int4: elements of one expert's group_scale
    Linear expert(int index) const;
    LinearJob job() const; // a job over these weights; input, rows, panels and output are left to fill in
    // out[k] = factor * w[feature][k]
    void read_row(int feature, float factor, float* out) const;
};

} // namespace flash
