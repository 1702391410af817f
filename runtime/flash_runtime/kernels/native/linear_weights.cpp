// Where the weights of an expert, a panel and a feature lie.
#include "linear_weights.h"

#include <cstring>

namespace flash {
namespace {

float as_float(uint32_t bits) {
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

// float16 to float32, exact: the exponent's bias changes by 112; subnormal numbers come out right, too. Infinity and NaN
// have no bias.
float from_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t bits = static_cast<uint32_t>(half & 0x7fffu) << 13;
    const float size = (half & 0x7c00u) == 0x7c00u ? as_float(bits | 0x7f800000u) : as_float(bits) * 0x1p112f;
    return sign ? -size : size;
}

} // namespace

size_t Linear::group_count() const { return static_cast<size_t>(panels()) * groups() * kInt4PerGroup * kLanes; }

Linear Linear::expert(int index) const {
    Linear one = *this;
    const size_t before = static_cast<size_t>(index);
    one.weight += before * weight_bytes();
    if (scale) one.scale += before * panels() * kLanes;
    if (group_scale) one.group_scale += before * group_count();
    if (group_min) one.group_min += before * group_count();
    if (bias) one.bias += before * features;
    return one;
}

LinearJob Linear::job() const {
    LinearJob job{};
    job.format = format;
    job.weight = weight;
    job.weight_scale = scale;
    job.group_scale = group_scale;
    job.group_min = group_min;
    job.bias = bias;
    job.groups = groups();
    return job;
}

void Linear::read_row(int feature, float factor, float* out) const {
    const size_t panel = static_cast<size_t>(feature / kLanes);
    const size_t lane = static_cast<size_t>(feature % kLanes);
    const uint8_t* lines = weight + panel * panel_bytes();
    const size_t group_line = panel * groups() * kInt4PerGroup * kLanes + lane;
    for (int k = 0; k < inputs; ++k) {
        float value = 0;
        switch (format) {
        case LinearFormat::int8: {
            const int byte = lines[(static_cast<size_t>(k / 4) * kLanes + lane) * 4 + k % 4];
            value = static_cast<float>(byte - kZeroPoint) * scale[feature];
            break;
        }
        case LinearFormat::int4: {
            const uint8_t both = lines[(static_cast<size_t>(k / 8) * kLanes + lane) * 4 + k % 4];
            const int q = k % 8 < 4 ? both & 15 : both >> 4;
            const size_t group = group_line + static_cast<size_t>(k / kInt4Group) * kLanes;
            value = static_cast<float>(q) * from_half(group_scale[group]) + from_half(group_min[group]);
            break;
        }
        case LinearFormat::bf16: {
            uint16_t bits;
            std::memcpy(&bits, lines + ((static_cast<size_t>(k / 2) * kLanes + lane) * 2 + k % 2) * 2, sizeof bits);
            value = as_float(static_cast<uint32_t>(bits) << 16);
            break;
        }
        }
        out[k] = value * factor;
    }
}

} // namespace flash
