// Single kernels for parity tests: each runs one entry of a kernel table on arrays the caller allocated.
#include "probes.h"

#include <stdexcept>

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

namespace nb = nanobind;
using namespace nb::literals;

namespace flash {
namespace {

template <class T> using Rows = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void expect(bool holds, const char* rule) {
    if (!holds) throw std::invalid_argument(rule);
}

void quantise(const std::string& isa, const Rows<const float>& x, const Rows<int8_t>& values, const Rows<float>& scale,
              const Rows<int32_t>& offset) {
    const size_t rows = x.shape(0);
    const size_t groups = (x.shape(1) + kGroup - 1) / kGroup;
    expect(values.size() == rows * groups * kGroup, "values must be [T, groups * 64]");
    expect(scale.size() == rows * groups && offset.size() == scale.size(), "scale and offset must be [T, groups]");
    for (size_t r = 0; r < rows; ++r) {
        kernels_named(isa).quantise(x.data() + r * x.shape(1), static_cast<int>(x.shape(1)),
                                    values.data() + r * groups * kGroup, scale.data() + r * groups,
                                    offset.data() + r * groups);
    }
}

void linear(const std::string& isa, const Rows<const float>& x, const Linear& layer, const Rows<float>& out) {
    const int rows = static_cast<int>(x.shape(0));
    expect(static_cast<int>(x.shape(1)) == layer.inputs, "x must be [T, K]");
    expect(out.size() == static_cast<size_t>(rows) * layer.features, "out must be [T, N]");
    const Kernels& kernels = kernels_named(isa);
    QuantBuffer input;
    input.shape(rows, layer.inputs, layer.format);
    for (int r = 0; r < rows; ++r) {
        kernels.prepare(layer.format, x.data() + static_cast<ptrdiff_t>(r) * layer.inputs, layer.inputs, input.row(r));
    }
    LinearJob job = layer.job();
    job.input = input.row(0);
    job.rows = rows;
    job.panel_end = layer.panels();
    job.columns = layer.features;
    job.out = out.data();
    job.out_stride = layer.features;
    kernels.linear(job);
}

void read_row(const Linear& layer, int feature, float factor, const Rows<float>& out) {
    expect(feature >= 0 && feature < layer.features, "feature must be one of the linear's");
    expect(static_cast<int>(out.size()) == layer.inputs, "out must be [1, K]");
    layer.read_row(feature, factor, out.data());
}

void swiglu(const std::string& isa, const Rows<const float>& gate, const Rows<const float>& up,
            const Rows<float>& out) {
    expect(gate.size() == up.size() && gate.size() == out.size(), "gate, up and out must have one shape");
    kernels_named(isa).swiglu(gate.data(), up.data(), static_cast<int>(gate.size()), out.data());
}

void softmax(const std::string& isa, const Rows<float>& x) {
    expect(x.shape(1) > 0, "x must not be empty");
    for (size_t r = 0; r < x.shape(0); ++r) {
        kernels_named(isa).softmax(x.data() + r * x.shape(1), static_cast<int>(x.shape(1)));
    }
}

void rms_norm(const std::string& isa, const Rows<const float>& x, const Rows<const float>& weight, float epsilon,
              const Rows<float>& out) {
    expect(x.size() == out.size() && weight.size() == x.shape(1), "out must be as x, weight [1, K]");
    for (size_t r = 0; r < x.shape(0); ++r) {
        const size_t at = r * x.shape(1);
        kernels_named(isa).rms_norm(x.data() + at, weight.data(), static_cast<int>(x.shape(1)), epsilon,
                                    out.data() + at);
    }
}

} // namespace

void bind_probes(nb::module_& m) {
    m.def("quantise", &quantise, "isa"_a, "x"_a, "values"_a.noconvert(), "scale"_a.noconvert(),
          "offset"_a.noconvert());
    m.def("linear", &linear, "isa"_a, "x"_a, "layer"_a, "out"_a.noconvert());
    m.def("read_row", &read_row, "layer"_a, "feature"_a, "factor"_a, "out"_a.noconvert());
    m.def("swiglu", &swiglu, "isa"_a, "gate"_a, "up"_a, "out"_a.noconvert());
    m.def("softmax", &softmax, "isa"_a, "x"_a.noconvert());
    m.def("rms_norm", &rms_norm, "isa"_a, "x"_a, "weight"_a, "epsilon"_a, "out"_a.noconvert());
}

} // namespace flash
