// The MLP half of a layer. A dense MLP is one expert that every token chose with weight 1 and adds its result in place;
// otherwise tokens are sorted by expert, so that each expert's weights are read once per step. A shared expert is one
// that every token chose with a weight of its own.
#include <cmath>

#include "engine.h"

namespace flash {
namespace {

constexpr int kHiddenRows = 96; // rows whose gate and up values a task holds on its stack

} // namespace

// Chooses experts per token and sorts the choices by expert. Ties go to the lower expert.
void Engine::route(const Layer& layer, size_t layer_index, int tokens) {
    const int experts = layer.experts;
    const int top_k = layer.top_k;
    probability_.resize(static_cast<size_t>(tokens) * experts);
    chosen_.resize(static_cast<size_t>(tokens) * top_k);
    chosen_weight_.resize(chosen_.size());
    slot_.resize(chosen_.size());
    slot_token_.resize(chosen_.size());
    for_rows(tokens, [&](int first, int last) {
        const ptrdiff_t begin = first;
        float* all = probability_.data() + begin * experts;
        const float* rows = normed_.data() + begin * model_.hidden;
        kernels_.router(rows, last - first, layer.router, experts, model_.hidden, all);
        for (ptrdiff_t t = first; t < last; ++t) {
            float* p = probability_.data() + t * experts;
            kernels_.softmax(p, experts);
            float total = 0;
            for (int j = 0; j < top_k; ++j) {
                // a NaN row still names an expert: the search starts from a valid index
                const int best = static_cast<int>(std::max_element(p, p + experts) - p);
                chosen_[t * top_k + j] = best;
                chosen_weight_[t * top_k + j] = p[best];
                total += p[best];
                p[best] = -1.0f; // probabilities are not negative, so it is not found again
            }
            if (!layer.normalise) continue;
            for (int j = 0; j < top_k; ++j) chosen_weight_[t * top_k + j] /= total;
        }
    });
    std::vector<int32_t> ends(static_cast<size_t>(experts) + 1, 0);
    for (const int32_t expert : chosen_) ++ends[static_cast<size_t>(expert) + 1];
    std::atomic<int64_t>* load = load_.data() + layer_index * most_experts_;
    for (int e = 0; e < experts; ++e) {
        // one writer: a plain sum is enough, readers only need whole numbers
        load[e].store(load[e].load(std::memory_order_relaxed) + ends[e + 1], std::memory_order_relaxed);
        for (int at = 0; at < ends[e + 1]; at += kRowBlock) {
            shares_.push_back({e, ends[e] + at, ends[e] + std::min(ends[e + 1], at + kRowBlock)});
        }
        ends[e + 1] += ends[e];
    }
    for (size_t choice = 0; choice < chosen_.size(); ++choice) {
        slot_[choice] = ends[chosen_[choice]]++;
        slot_token_[slot_[choice]] = static_cast<int32_t>(choice) / top_k;
    }
}

// One expert that takes every row.
void Engine::share_rows(int tokens) {
    shares_.clear();
    for (int at = 0; at < tokens; at += kRowBlock) shares_.push_back({0, at, std::min(tokens, at + kRowBlock)});
}

// activation_[rows of the share], group `group` = rounded silu(gate) * up of that group's 64 features.
void Engine::hidden_group(const Swiglu& mlp, const int32_t* row_index, const Share& share, int group,
                          const uint8_t* next) {
    const Linear gate_up = mlp.gate_up.expert(share.expert);
    const int begin = group * kGroup;
    const int count = std::min(kGroup, mlp.width - begin);
    const int up_panel = (mlp.width + begin) / kLanes;
    const int up_shift = (mlp.width + begin) % kLanes; // up need not start on a panel
    constexpr int kUpStride = kGroup + kLanes;
    float gate[kHiddenRows * kGroup];
    float up[kHiddenRows * kUpStride];
    float product[kGroup];
    for (int row = share.begin; row < share.end; row += kHiddenRows) {
        LinearJob job = gate_up.job();
        job.rows = std::min(kHiddenRows, share.end - row);
        job.row_index = row_index ? row_index + row : nullptr;
        job.input = input_.row(row_index ? 0 : row);
        job.panel_begin = begin / kLanes;
        job.panel_end = divide_up(begin + count, kLanes);
        job.columns = count;
        job.out = gate;
        job.out_stride = kGroup;
        job.next = gate_up.panel(up_panel);
        kernels_.linear(job);
        job.panel_begin = up_panel;
        job.panel_end = divide_up(mlp.width + begin + count, kLanes);
        job.columns = up_shift + count;
        job.out = up;
        job.out_stride = kUpStride;
        job.next = row + kHiddenRows < share.end ? nullptr : next;
        kernels_.linear(job);
        for (int r = 0; r < job.rows; ++r) {
            kernels_.swiglu(gate + r * kGroup, up + r * kUpStride + up_shift, count, product);
            kernels_.prepare(mlp.down.format, product, count, activation_.group(row + r, group));
        }
    }
}

// activation_[rows] for all shares. row_index: which input row each row reads, null: its own.
void Engine::hidden_features(const Swiglu& mlp, const int32_t* row_index, int rows) {
    activation_.shape(rows, mlp.width, mlp.down.format);
    const int groups = divide_up(mlp.width, kGroup);
    const int tasks = static_cast<int>(shares_.size()) * groups;
    pool_.run(tasks, [&](int i) {
        const int after = (i + 1) % tasks;
        const Linear next = mlp.gate_up.expert(shares_[after / groups].expert);
        hidden_group(mlp, row_index, shares_[i / groups], i % groups, next.panel(after % groups * (kGroup / kLanes)));
    });
}

// expert_out_[rows] = down(activation_[rows]) for all shares.
void Engine::outputs(const Swiglu& mlp, int rows) {
    const int width = model_.hidden;
    // grows only: routed and shared experts take turns, and a vector that grows again is filled with zeros
    expert_out_.resize(std::max(expert_out_.size(), static_cast<size_t>(rows) * width));
    const int panels = mlp.down.panels();
    const int wanted = divide_up(panels * static_cast<int>(shares_.size()), pool_.threads() * 6);
    const int size = divide_up(std::min(wanted, 16), 4) * 4;
    const int chunks = divide_up(panels, size);
    const int tasks = static_cast<int>(shares_.size()) * chunks;
    pool_.run(tasks, [&](int i) {
        const Share& share = shares_[i / chunks];
        const Linear down = mlp.down.expert(share.expert);
        LinearJob job = down.job();
        job.input = activation_.row(share.begin);
        job.rows = share.end - share.begin;
        job.panel_begin = i % chunks * size;
        job.panel_end = std::min(panels, job.panel_begin + size);
        job.columns = std::min(width, job.panel_end * kLanes) - job.panel_begin * kLanes;
        job.out = expert_out_.data() + static_cast<ptrdiff_t>(share.begin) * width + job.panel_begin * kLanes;
        job.out_stride = width;
        const int after = (i + 1) % tasks;
        const Linear next = mlp.down.expert(shares_[after / chunks].expert);
        job.next = next.panel(after % chunks * size);
        kernels_.linear(job);
    });
}

void Engine::routed(const Layer& layer, size_t layer_index, int tokens) {
    shares_.clear();
    route(layer, layer_index, tokens);
    hidden_features(layer.mlp, slot_token_.data(), tokens * layer.top_k);
    outputs(layer.mlp, tokens * layer.top_k);
    const int width = model_.hidden;
    const int top_k = layer.top_k;
    for_rows(tokens, [&](int first, int last) {
        for (ptrdiff_t t = first; t < last; ++t) {
            for (ptrdiff_t choice = t * top_k; choice < (t + 1) * top_k; ++choice) {
                const float* from = expert_out_.data() + static_cast<ptrdiff_t>(slot_[choice]) * width;
                const float weight = chosen_weight_[choice] * model_.residual_factor;
                kernels_.add_scaled(from, weight, width, hidden_.data() + t * width);
            }
        }
    });
}

// hidden_ += sigmoid(gate . x) * the shared expert
void Engine::shared(const Layer& layer, int tokens) {
    share_rows(tokens);
    hidden_features(layer.shared, nullptr, tokens);
    outputs(layer.shared, tokens);
    shared_weight_.resize(static_cast<size_t>(tokens));
    const ptrdiff_t width = model_.hidden;
    for_rows(tokens, [&](int first, int last) {
        const float* rows = normed_.data() + first * width;
        kernels_.router(rows, last - first, layer.shared_gate, 1, model_.hidden, shared_weight_.data() + first);
        for (ptrdiff_t t = first; t < last; ++t) {
            const float weight = model_.residual_factor / (1.0f + std::exp(-shared_weight_[t]));
            kernels_.add_scaled(expert_out_.data() + t * width, weight, model_.hidden, hidden_.data() + t * width);
        }
    });
}

void Engine::mlp(const Layer& layer, size_t layer_index, int tokens) {
    norm_rows(layer.mlp_norm, tokens, nullptr, layer.mlp.gate_up.format);
    if (layer.router) {
        routed(layer, layer_index, tokens);
        if (layer.shared_gate) shared(layer, tokens);
        return;
    }
    share_rows(tokens);
    hidden_features(layer.mlp, nullptr, tokens);
    run_linear(layer.mlp.down, activation_, tokens, hidden_.data(), true, model_.residual_factor);
}

} // namespace flash
