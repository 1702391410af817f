// Construction, the checks of a batch, and the order of a step; its two halves stand in step_attention.cpp and
// step_mlp.cpp.
#include "engine.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <stdexcept>
#include <string>

#include <sys/mman.h>

namespace flash {
namespace {

[[noreturn]] void refuse(const std::string& what, int64_t value, int64_t low, int64_t high) {
    throw std::invalid_argument(what + " (" + std::to_string(value) + ") must lie in " + std::to_string(low) + ".." +
                                std::to_string(high));
}

void require(const char* what, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) refuse(what, value, low, high);
}

// Where the highest logit stands first, given the highest of each chunk of `width`.
int32_t best_token(const float* highest, int chunks, int width, const float* logits) {
    int at = 0;
    for (int i = 0; i < chunks; ++i) {
        if (std::isnan(highest[i])) return kNoToken;
        if (highest[i] > highest[at]) at = i;
    }
    if (!std::isfinite(highest[at])) return kNoToken;
    int32_t token = at * width;
    while (logits[token] != highest[at]) ++token;
    return token;
}

} // namespace

void QuantBuffer::shape(int rows, int inputs, LinearFormat weights) {
    format = weights;
    groups = divide_up(inputs, kGroup);
    const size_t count = static_cast<size_t>(rows) * groups;
    if (format == LinearFormat::bf16) {
        if (rounded.size() < count * kGroup) rounded.resize(count * kGroup);
    } else if (offset.size() < count) {
        values.resize(count * kGroup);
        scale.resize(count * kInt4Scales);
        offset.resize(count);
    }
}

QuantRows QuantBuffer::group(ptrdiff_t row, int group) {
    const ptrdiff_t at = row * groups + group;
    if (format == LinearFormat::bf16) return {nullptr, nullptr, nullptr, rounded.data() + at * kGroup};
    const int scales = format == LinearFormat::int4 ? kInt4Scales : 1;
    return {values.data() + at * kGroup, scale.data() + at * scales, offset.data() + at, nullptr};
}

void Engine::Unmap::operator()(uint8_t* memory) const { munmap(memory, bytes); }

Engine::Engine(Model model, const Kernels& kernels, int threads, int num_blocks, int block_size,
               CacheFormat cache_format)
    : model_(std::move(model)), kernels_(kernels), pool_(threads), num_blocks_(num_blocks), block_size_(block_size),
      value_dim_(divide_up(model_.head_dim, kLanes) * kLanes),
      key_head_(static_cast<ptrdiff_t>(model_.head_dim) * block_size),
      value_head_(static_cast<ptrdiff_t>(value_dim_) * block_size),
      key_layer_(key_head_ * model_.kv_heads * num_blocks), value_layer_(value_head_ * model_.kv_heads * num_blocks),
      cache_format_(cache_format) {
    const size_t elements = model_.layers.size() * static_cast<size_t>(key_layer_ + value_layer_);
    const size_t heads = model_.layers.size() * static_cast<size_t>(model_.kv_heads) * num_blocks;
    const size_t bytes = cache_format_ == CacheFormat::int8
                             ? elements + heads * static_cast<size_t>(block_size) * 2 * sizeof(float)
                             : elements * sizeof(uint16_t);
    // Mapped, not allocated: pages cost memory only once a block is written, and start as zeros.
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    cache_ = {static_cast<uint8_t*>(memory), Unmap{bytes}};
    const auto sees_all = [](const Layer& layer) { return layer.window == 0; };
    if (std::none_of(model_.layers.begin(), model_.layers.end(), sees_all)) {
        for (const Layer& layer : model_.layers) window_ = std::max(window_, layer.window);
    }
    for (const Layer& layer : model_.layers) {
        if (layer.router) most_experts_ = std::max(most_experts_, layer.experts);
    }
    load_ = std::vector<std::atomic<int64_t>>(model_.layers.size() * static_cast<size_t>(most_experts_));
}

void Engine::expert_load(int64_t* out) const {
    for (const auto& count : load_) *out++ = count.load(std::memory_order_relaxed);
}

// No index of a batch may reach a pointer unchecked: a request must not be able to crash the process.
void Engine::check(const Batch& batch) const {
    if (batch.query_starts[0] != 0) refuse("query_starts[0]", batch.query_starts[0], 0, 0);
    require("query_starts[-1]", batch.query_starts[batch.sequences], batch.tokens, batch.tokens);
    for (int s = 0; s < batch.sequences; ++s) {
        const int begin = batch.query_starts[s];
        const int end = batch.query_starts[s + 1];
        require("query_starts", end, begin, batch.tokens);
        int last = -1;
        int first = model_.max_positions;
        for (int t = begin; t < end; ++t) {
            require("token_ids", batch.token_ids[t], 0, model_.vocab - 1);
            require("positions", batch.positions[t], 0, model_.max_positions - 1);
            last = std::max(last, batch.positions[t]);
            first = std::min(first, batch.positions[t]);
        }
        const int blocks = divide_up(last + 1, block_size_);
        require("blocks of a sequence", blocks, 0, batch.blocks_per_row);
        const int32_t* table = batch.block_tables + static_cast<ptrdiff_t>(s) * batch.blocks_per_row;
        const int held = window_ ? std::max(0, first + 1 - window_) / block_size_ : 0; // no token sees earlier blocks
        for (int b = 0; b < blocks; ++b) require("block_tables", table[b], b < held ? -1 : 0, num_blocks_ - 1);
    }
    for (int r = 0; r < batch.rows; ++r) require("logit_rows", batch.logit_rows[r], 0, batch.tokens - 1);
    for (int r = 0; r < batch.best; ++r) require("best_rows", batch.best_rows[r], 0, batch.tokens - 1);
}

void Engine::prepare(const Batch& batch) {
    const size_t tokens = static_cast<size_t>(batch.tokens);
    const size_t half = static_cast<size_t>(model_.head_dim / 2);
    const int group = model_.heads / model_.kv_heads;
    hidden_.resize(tokens * model_.hidden);
    normed_.resize(std::max(tokens, static_cast<size_t>(batch.rows + batch.best)) * model_.hidden);
    qkv_.resize(tokens * (model_.heads + 2 * model_.kv_heads) * model_.head_dim);
    attended_.resize(tokens * model_.heads * model_.head_dim);
    cosine_.resize(tokens * half);
    sine_.resize(tokens * half);
    sequence_of_.resize(tokens);
    tiles_.clear();
    for (int s = 0; s < batch.sequences; ++s) {
        const int begin = batch.query_starts[s];
        const int end = batch.query_starts[s + 1];
        std::fill(sequence_of_.begin() + begin, sequence_of_.begin() + end, s);
        const int rows = (end - begin) * group;
        // late tokens see the most keys: they go first, so that no thread starts the longest tile last
        for (int at = (divide_up(rows, kAttentionRows) - 1) * kAttentionRows; at >= 0; at -= kAttentionRows) {
            tiles_.push_back({s, at, std::min(kAttentionRows, rows - at)});
        }
    }
    for_rows(batch.tokens, [&](int first, int last) {
        for (size_t t = first; t < static_cast<size_t>(last); ++t) {
            const float position = static_cast<float>(batch.positions[t]);
            for (size_t i = 0; i < half; ++i) {
                const double angle = position * model_.rope_inv_freq[i]; // rounded to float first, as in training
                cosine_[t * half + i] = static_cast<float>(std::cos(angle)) * model_.rope_scale;
                sine_[t * half + i] = static_cast<float>(std::sin(angle)) * model_.rope_scale;
            }
        }
    });
}

void Engine::embed(const Batch& batch) {
    for_rows(batch.tokens, [&](int first, int last) {
        for (int t = first; t < last; ++t) {
            float* out = hidden_.data() + static_cast<ptrdiff_t>(t) * model_.hidden;
            model_.embedding.read_row(batch.token_ids[t], model_.embedding_factor, out);
        }
    });
}

// normed_[i] and input_[i] = rms_norm(hidden_[index ? index[i] : i]), the latter for weights of the format
void Engine::norm_rows(const float* weight, int rows, const int32_t* index, LinearFormat format) {
    const int width = model_.hidden;
    input_.shape(rows, width, format);
    for_rows(rows, [&](int first, int last) {
        for (int i = first; i < last; ++i) {
            const ptrdiff_t from = index ? index[i] : i;
            float* out = normed_.data() + static_cast<ptrdiff_t>(i) * width;
            kernels_.rms_norm(hidden_.data() + from * width, weight, width, model_.norm_epsilon, out);
            kernels_.prepare(format, out, width, input_.row(i));
        }
    });
}

Engine::Cut Engine::cut(const Linear& linear, int rows) const {
    const int row_blocks = divide_up(rows, kRowBlock);
    // a few tasks per thread balance the load; whole register tiles (4 panels for single rows) keep it efficient
    const int wanted = divide_up(linear.panels() * row_blocks, pool_.threads() * 6);
    const int panels = divide_up(std::min(wanted, 32), 4) * 4;
    const int chunks = divide_up(linear.panels(), panels);
    return {panels, chunks, chunks * row_blocks};
}

LinearJob Engine::linear_job(const Linear& linear, const Cut& cut, int task, QuantBuffer& input, int rows, float* out) {
    const int row = task / cut.chunks * kRowBlock;
    const int panel = task % cut.chunks * cut.panels;
    LinearJob job = linear.job();
    job.input = input.row(row);
    job.rows = std::min(kRowBlock, rows - row);
    job.panel_begin = panel;
    job.panel_end = std::min(linear.panels(), panel + cut.panels);
    job.columns = std::min(linear.features, job.panel_end * kLanes) - panel * kLanes;
    job.out = out + static_cast<ptrdiff_t>(row) * linear.features + panel * kLanes;
    job.out_stride = linear.features;
    job.next = linear.panel((task + 1) % cut.chunks * cut.panels);
    return job;
}

void Engine::run_linear(const Linear& linear, QuantBuffer& input, int rows, float* out, bool accumulate,
                        float factor) {
    const Cut tasks = cut(linear, rows);
    pool_.run(tasks.tasks, [&](int i) {
        LinearJob job = linear_job(linear, tasks, i, input, rows, out);
        job.accumulate = accumulate;
        job.factor = factor;
        kernels_.linear(job);
    });
}

// Logits, and the best token of the rows that want no more: its search begins while they are still in the cache.
void Engine::head(const Batch& batch, float* logits, int32_t* best) {
    head_rows_.assign(batch.logit_rows, batch.logit_rows + batch.rows);
    head_rows_.insert(head_rows_.end(), batch.best_rows, batch.best_rows + batch.best);
    const int rows = batch.rows + batch.best;
    if (rows == 0) return; // in the middle of a prompt nobody needs logits
    norm_rows(model_.final_norm, rows, head_rows_.data(), model_.head.format);
    const Cut tasks = cut(model_.head, rows);
    const ptrdiff_t chunks = tasks.chunks;
    highest_.resize(static_cast<size_t>(batch.best * chunks));
    pool_.run(tasks.tasks, [&](int i) {
        LinearJob job = linear_job(model_.head, tasks, i, input_, rows, logits);
        job.factor = model_.logits_factor;
        kernels_.linear(job);
        const int row = i / tasks.chunks * kRowBlock - batch.rows; // counted among the rows that want the best
        for (int r = std::max(0, -row); r < job.rows; ++r) {
            const float* part = job.out + r * job.out_stride;
            highest_[(row + r) * chunks + i % tasks.chunks] = kernels_.highest(part, job.columns);
        }
    });
    for (ptrdiff_t c = 0; c < batch.best; ++c) {
        const float* row = logits + (batch.rows + c) * model_.vocab;
        best[c] = best_token(highest_.data() + c * chunks, tasks.chunks, tasks.panels * kLanes, row);
    }
}

void Engine::step(const Batch& batch, float* logits, int32_t* best) {
    const std::lock_guard<std::mutex> lock(mutex_);
    check(batch);
    if (batch.tokens == 0) return;
    prepare(batch);
    embed(batch);
    for (size_t index = 0; index < model_.layers.size(); ++index) {
        attention(batch, model_.layers[index], index);
        mlp(model_.layers[index], index, batch.tokens);
    }
    head(batch, logits, best);
}

} // namespace flash
