// The Python face of the engine: plain holders for pointers into the packed file, and step() with the GIL released.
// The Python side has checked every shape; this file checks only what would be unsafe to believe.
#include <optional>
#include <stdexcept>
#include <string>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "engine.h"
#include "probes.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;
using Halves = nb::ndarray<const uint16_t, nb::c_contig, nb::device::cpu>; // bits of float16 or bfloat16
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IntTable = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tokens = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void expect(const char* what, size_t found, size_t expected) {
    if (found == expected) return;
    throw std::invalid_argument(std::string(what) + " has " + std::to_string(found) + " elements, expected " +
                                std::to_string(expected));
}

const float* floats(const char* what, const Floats& array, size_t expected) {
    expect(what, array.size(), expected);
    return array.data();
}

flash::Linear linear(flash::LinearFormat format, const void* weight, size_t bytes, const std::optional<Floats>& bias,
                     int features, int inputs, int experts) {
    flash::Linear out;
    out.format = format;
    out.features = features;
    out.inputs = inputs;
    expect("weight's bytes", bytes, experts * out.weight_bytes());
    out.weight = static_cast<const uint8_t*>(weight);
    if (bias) out.bias = floats("bias", *bias, static_cast<size_t>(experts) * features);
    return out;
}

flash::Linear int8_linear(const Bytes& weight, const Floats& scale, const std::optional<Floats>& bias, int features,
                          int inputs, int experts) {
    flash::Linear out =
        linear(flash::LinearFormat::int8, weight.data(), weight.size(), bias, features, inputs, experts);
    out.scale = floats("scale", scale, static_cast<size_t>(experts) * out.panels() * flash::kLanes);
    return out;
}

flash::Linear int4_linear(const Bytes& weight, const Halves& scale, const Halves& min,
                          const std::optional<Floats>& bias, int features, int inputs, int experts) {
    flash::Linear out =
        linear(flash::LinearFormat::int4, weight.data(), weight.size(), bias, features, inputs, experts);
    expect("scale", scale.size(), experts * out.group_count());
    expect("min", min.size(), experts * out.group_count());
    out.group_scale = scale.data();
    out.group_min = min.data();
    return out;
}

flash::Linear bf16_linear(const Halves& weight, const std::optional<Floats>& bias, int features, int inputs,
                          int experts) {
    return linear(flash::LinearFormat::bf16, weight.data(), weight.size() * sizeof(uint16_t), bias, features, inputs,
                  experts);
}

// Keeps the arrays alive that the model points into.
struct PyEngine {
    PyEngine(flash::Model model, nb::object arrays, const std::string& isa, int threads, int num_blocks, int block_size,
             flash::CacheFormat cache_format)
        : engine(std::move(model), flash::kernels_named(isa), threads, num_blocks, block_size, cache_format),
          owner(std::move(arrays)), name(isa) {}

    void step(const Ints& token_ids, const Ints& positions, const Ints& query_starts, const IntTable& block_tables,
              const Ints& logit_rows, const Ints& best_rows, const Logits& out, const Tokens& best, int vocab) {
        if (query_starts.size() == 0) throw std::invalid_argument("query_starts must not be empty");
        expect("positions", positions.size(), token_ids.size());
        expect("block_tables", block_tables.shape(0), query_starts.size() - 1);
        expect("logits", out.size(), (logit_rows.size() + best_rows.size()) * static_cast<size_t>(vocab));
        expect("best", best.size(), best_rows.size());
        const flash::Batch batch{token_ids.data(),
                                 positions.data(),
                                 static_cast<int>(token_ids.size()),
                                 query_starts.data(),
                                 static_cast<int>(query_starts.size()) - 1,
                                 block_tables.data(),
                                 static_cast<int>(block_tables.shape(1)),
                                 logit_rows.data(),
                                 static_cast<int>(logit_rows.size()),
                                 best_rows.data(),
                                 static_cast<int>(best_rows.size())};
        const nb::gil_scoped_release released;
        engine.step(batch, out.data(), best.data());
    }

    void expert_load(const Counts& out) const {
        expect("expert_load", out.size(), static_cast<size_t>(engine.num_layers()) * engine.most_experts());
        engine.expert_load(out.data());
    }

    flash::Engine engine;
    nb::object owner;
    std::string name;
};

} // namespace

NB_MODULE(_native, m) {
    m.def("supported_isas", &flash::supported_isas, "Instruction sets this CPU and build can use, fastest first.");
    flash::bind_probes(m);

    nb::class_<flash::Linear>(m, "Linear")
        .def_static("int8", &int8_linear, "weight"_a, "scale"_a, "bias"_a.none(), "features"_a, "inputs"_a, "experts"_a)
        .def_static("int4", &int4_linear, "weight"_a, "scale"_a, "min"_a, "bias"_a.none(), "features"_a, "inputs"_a,
                    "experts"_a)
        .def_static("bf16", &bf16_linear, "weight"_a, "bias"_a.none(), "features"_a, "inputs"_a, "experts"_a);

    nb::class_<flash::Swiglu>(m, "Swiglu").def_static(
        "of",
        [](const flash::Linear& gate_up, const flash::Linear& down, int width) {
            return flash::Swiglu{gate_up, down, width};
        },
        "gate_up"_a, "down"_a, "width"_a);

    nb::class_<flash::Layer>(m, "Layer")
        .def_static(
            "of",
            [](const Floats& attn_norm, const flash::Linear& qkv, const std::optional<Floats>& q_norm,
               const std::optional<Floats>& k_norm, bool norm_together, int window, const flash::Linear& o,
               const Floats& mlp_norm, const std::optional<Floats>& router, int experts, int top_k, bool normalise,
               const flash::Swiglu& mlp, const std::optional<flash::Swiglu>& shared,
               const std::optional<Floats>& shared_gate) {
                flash::Layer layer;
                layer.attn_norm = attn_norm.data();
                layer.qkv = qkv;
                layer.q_norm = q_norm ? q_norm->data() : nullptr;
                layer.k_norm = k_norm ? k_norm->data() : nullptr;
                layer.norm_together = norm_together;
                layer.window = window;
                layer.o = o;
                layer.mlp_norm = mlp_norm.data();
                layer.router = router ? router->data() : nullptr;
                layer.experts = experts;
                layer.top_k = top_k;
                layer.normalise = normalise;
                layer.mlp = mlp;
                if (shared && shared_gate) {
                    layer.shared = *shared;
                    layer.shared_gate = shared_gate->data();
                }
                return layer;
            },
            "attn_norm"_a, "qkv"_a, "q_norm"_a.none(), "k_norm"_a.none(), "norm_together"_a, "window"_a, "o"_a,
            "mlp_norm"_a, "router"_a.none(), "experts"_a, "top_k"_a, "normalise"_a, "mlp"_a, "shared"_a.none(),
            "shared_gate"_a.none());

    nb::class_<PyEngine>(m, "Engine")
        .def(
            "__init__",
            [](PyEngine* self, int hidden, int heads, int kv_heads, int head_dim, int vocab, float norm_epsilon,
               int max_positions, const Floats& rope_inv_freq, float rope_scale, float embedding_factor,
               float score_factor, float residual_factor, float logits_factor, const flash::Linear& embedding,
               const Floats& final_norm, const flash::Linear& head, std::vector<flash::Layer> layers, nb::object arrays,
               const std::string& isa, int threads, int num_blocks, int block_size, bool int8_cache) {
                if (head_dim > flash::kMaxHeadDim) throw std::invalid_argument("head_dim is too large");
                flash::Model model;
                model.hidden = hidden;
                model.heads = heads;
                model.kv_heads = kv_heads;
                model.head_dim = head_dim;
                model.vocab = vocab;
                model.norm_epsilon = norm_epsilon;
                model.max_positions = max_positions;
                model.rope_inv_freq = floats("rope_inv_freq", rope_inv_freq, static_cast<size_t>(head_dim / 2));
                model.rope_scale = rope_scale;
                model.embedding_factor = embedding_factor;
                model.score_factor = score_factor;
                model.residual_factor = residual_factor;
                model.logits_factor = logits_factor;
                model.embedding = embedding;
                model.final_norm = floats("final_norm", final_norm, static_cast<size_t>(hidden));
                model.head = head;
                model.layers = std::move(layers);
                const auto cache = int8_cache ? flash::CacheFormat::int8 : flash::CacheFormat::bf16;
                new (self) PyEngine(std::move(model), std::move(arrays), isa, threads, num_blocks, block_size, cache);
            },
            nb::kw_only(), "hidden"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "vocab"_a, "norm_epsilon"_a,
            "max_positions"_a, "rope_inv_freq"_a, "rope_scale"_a, "embedding_factor"_a, "score_factor"_a,
            "residual_factor"_a, "logits_factor"_a, "embedding"_a, "final_norm"_a, "head"_a, "layers"_a,
            "arrays"_a, "isa"_a, "threads"_a, "num_blocks"_a, "block_size"_a,
            "int8_cache"_a)
        .def("step", &PyEngine::step, "token_ids"_a.noconvert(), "positions"_a.noconvert(),
             "query_starts"_a.noconvert(), "block_tables"_a.noconvert(), "logit_rows"_a.noconvert(),
             "best_rows"_a.noconvert(), "logits"_a.noconvert(), "best"_a.noconvert(), "vocab"_a)
        .def("expert_load", &PyEngine::expert_load, "out"_a.noconvert())
        .def_prop_ro("num_layers", [](const PyEngine& self) { return self.engine.num_layers(); })
        .def_prop_ro("most_experts", [](const PyEngine& self) { return self.engine.most_experts(); })
        .def_prop_ro("threads", [](const PyEngine& self) { return self.engine.threads(); })
        .def_ro("isa", &PyEngine::name);
}
