// The attention half of a layer: projections, rotary embedding, the paged cache, and the jobs of its kernel.
#include "engine.h"

namespace flash {
namespace {

// A key's features lie block_size apart: so sixteen keys can be multiplied at once.
template <class Element> void scatter(const Element* from, int count, int stride, Element* to) {
    for (int i = 0; i < count; ++i) to[static_cast<ptrdiff_t>(i) * stride] = from[i];
}

} // namespace

Engine::CacheLayer Engine::cache_layer(size_t layer_index) const {
    const bool scaled = cache_format_ == CacheFormat::int8;
    const ptrdiff_t element = scaled ? sizeof(int8_t) : sizeof(uint16_t);
    const ptrdiff_t layers = static_cast<ptrdiff_t>(model_.layers.size());
    const ptrdiff_t layer = static_cast<ptrdiff_t>(layer_index);
    uint8_t* const values = cache_.get() + layers * key_layer_ * element;
    CacheLayer out{cache_.get() + layer * key_layer_ * element, values + layer * value_layer_ * element, nullptr,
                   nullptr};
    if (!scaled) return out;
    // aligned: a layer has a multiple of 16 elements, because a block has
    float* const scales = reinterpret_cast<float*>(values + layers * value_layer_);
    const ptrdiff_t scale_layer = static_cast<ptrdiff_t>(num_blocks_) * model_.kv_heads * block_size_;
    out.key_scale = scales + layer * scale_layer;
    out.value_scale = scales + (layers + layer) * scale_layer;
    return out;
}

// Keys and values [kv_heads, head_dim] of one token, to its place in its block.
void Engine::write_token(const CacheLayer& cache, ptrdiff_t block, int inside, const float* key, const float* value) {
    const int dim = model_.head_dim;
    for (int h = 0; h < model_.kv_heads; ++h, key += dim, value += dim) {
        const ptrdiff_t head = block * model_.kv_heads + h;
        const ptrdiff_t key_at = head * key_head_ + inside;
        const ptrdiff_t value_at = head * value_head_ + static_cast<ptrdiff_t>(inside) * value_dim_;
        if (cache_format_ == CacheFormat::int8) {
            int8_t rounded[kMaxHeadDim];
            const ptrdiff_t scale_at = head * block_size_ + inside;
            kernels_.quantise_head(key, dim, rounded, cache.key_scale + scale_at);
            scatter(rounded, dim, block_size_, reinterpret_cast<int8_t*>(cache.keys) + key_at);
            int8_t* const values = reinterpret_cast<int8_t*>(cache.values);
            kernels_.quantise_head(value, dim, values + value_at, cache.value_scale + scale_at);
        } else {
            uint16_t rounded[kMaxHeadDim];
            kernels_.to_bf16(key, dim, rounded);
            scatter(rounded, dim, block_size_, reinterpret_cast<uint16_t*>(cache.keys) + key_at);
            kernels_.to_bf16(value, dim, reinterpret_cast<uint16_t*>(cache.values) + value_at);
        }
    }
}

// Normalises and rotates queries and keys in place, and writes keys and values to the cache.
void Engine::write_cache(const Batch& batch, const Layer& layer, size_t layer_index) {
    const int dim = model_.head_dim;
    const CacheLayer cache = cache_layer(layer_index);
    for_rows(batch.tokens, [&](int first, int last) {
        for (int t = first; t < last; ++t) {
            const ptrdiff_t angle = static_cast<ptrdiff_t>(t) * (dim / 2);
            float* head = qkv_.data() + static_cast<ptrdiff_t>(t) * layer.qkv.features;
            if (layer.norm_together) {
                const int queries = model_.heads * dim;
                if (layer.q_norm) kernels_.rms_norm(head, layer.q_norm, queries, model_.norm_epsilon, head);
                float* first_key = head + queries;
                const int width = model_.kv_heads * dim;
                if (layer.k_norm) kernels_.rms_norm(first_key, layer.k_norm, width, model_.norm_epsilon, first_key);
            }
            for (int h = 0; h < model_.heads + model_.kv_heads; ++h, head += dim) {
                const float* norm = h < model_.heads ? layer.q_norm : layer.k_norm;
                if (norm && !layer.norm_together) kernels_.rms_norm(head, norm, dim, model_.norm_epsilon, head);
                kernels_.rope(head, cosine_.data() + angle, sine_.data() + angle, dim / 2);
            }
            const float* value = head;
            const float* key = head - static_cast<ptrdiff_t>(model_.kv_heads) * dim;
            const int position = batch.positions[t];
            const ptrdiff_t table = static_cast<ptrdiff_t>(sequence_of_[t]) * batch.blocks_per_row;
            const ptrdiff_t block = batch.block_tables[table + position / block_size_];
            write_token(cache, block, position % block_size_, key, value);
        }
    });
}

AttentionJob Engine::attention_job(const Batch& batch, const Layer& layer, size_t layer_index, const Tile& tile,
                                   int kv_head) {
    const int dim = model_.head_dim;
    const int group = model_.heads / model_.kv_heads;
    const CacheLayer cache = cache_layer(layer_index);
    const bool scaled = cache_format_ == CacheFormat::int8;
    const ptrdiff_t element = scaled ? sizeof(int8_t) : sizeof(uint16_t);
    AttentionJob job;
    job.keys = cache.keys + kv_head * key_head_ * element;
    job.values = cache.values + kv_head * value_head_ * element;
    job.key_scale = scaled ? cache.key_scale + kv_head * block_size_ : nullptr;
    job.value_scale = scaled ? cache.value_scale + kv_head * block_size_ : nullptr;
    job.scale_block_stride = static_cast<ptrdiff_t>(block_size_) * model_.kv_heads;
    job.key_block_stride = key_head_ * model_.kv_heads;
    job.value_block_stride = value_head_ * model_.kv_heads;
    job.blocks = batch.block_tables + static_cast<ptrdiff_t>(tile.sequence) * batch.blocks_per_row;
    job.block_size = block_size_;
    job.head_dim = dim;
    job.value_dim = value_dim_;
    job.scale = model_.score_factor;
    job.rows = tile.rows;
    for (int r = 0; r < tile.rows; ++r) {
        const ptrdiff_t token = batch.query_starts[tile.sequence] + (tile.begin + r) / group;
        const ptrdiff_t head = kv_head * group + (tile.begin + r) % group;
        job.query[r] = qkv_.data() + token * layer.qkv.features + head * dim;
        job.out[r] = attended_.data() + (token * model_.heads + head) * dim;
        job.visible[r] = batch.positions[token] + 1;
        job.first[r] = layer.window ? std::max(0, job.visible[r] - layer.window) : 0;
    }
    job.parts = nullptr;
    job.split_begin = *std::min_element(job.first, job.first + job.rows) / kKeySplit;
    job.split_end = divide_up(*std::max_element(job.visible, job.visible + job.rows), kKeySplit);
    return job;
}

// With few sequences there are only as many tasks as key/value heads: long ones are also cut by splits of their keys.
void Engine::attend_in_parts(const Batch& batch, const Layer& layer, size_t layer_index) {
    std::vector<AttentionJob> whole;
    std::vector<AttentionJob> pieces;
    ptrdiff_t floats = 0;
    for (const Tile& tile : tiles_) {
        for (int kv_head = 0; kv_head < model_.kv_heads; ++kv_head) {
            whole.push_back(attention_job(batch, layer, layer_index, tile, kv_head));
            floats += whole.back().part_floats() * (whole.back().split_end - whole.back().split_begin);
        }
    }
    parts_.resize(std::max(parts_.size(), static_cast<size_t>(floats)));
    float* at = parts_.data();
    for (AttentionJob& job : whole) {
        job.parts = at;
        for (int split = job.split_begin; split < job.split_end; ++split, at += job.part_floats()) {
            pieces.push_back(job);
            pieces.back().parts = at;
            pieces.back().split_begin = split;
            pieces.back().split_end = split + 1;
        }
    }
    pool_.run(static_cast<int>(pieces.size()), [&](int i) { kernels_.attention_parts(pieces[i]); });
    for (const AttentionJob& job : whole) kernels_.attention_merge(job);
}

void Engine::attention(const Batch& batch, const Layer& layer, size_t layer_index) {
    norm_rows(layer.attn_norm, batch.tokens, nullptr, layer.qkv.format);
    run_linear(layer.qkv, input_, batch.tokens, qkv_.data(), false, 1.0f);
    write_cache(batch, layer, layer_index);

    const int dim = model_.head_dim;
    const int tasks = static_cast<int>(tiles_.size()) * model_.kv_heads;
    const int last = *std::max_element(batch.positions, batch.positions + batch.tokens);
    if (pool_.threads() > 1 && last >= kKeySplit && tasks < pool_.threads() * 8) {
        attend_in_parts(batch, layer, layer_index);
    } else {
        pool_.run(tasks, [&](int i) {
            const Tile& tile = tiles_[i / model_.kv_heads];
            kernels_.attention(attention_job(batch, layer, layer_index, tile, i % model_.kv_heads));
        });
    }

    const int width = model_.heads * dim;
    input_.shape(batch.tokens, width, layer.o.format);
    for_rows(batch.tokens, [&](int first, int last) {
        for (int t = first; t < last; ++t) {
            const float* from = attended_.data() + static_cast<ptrdiff_t>(t) * width;
            kernels_.prepare(layer.o.format, from, width, input_.row(t));
        }
    });
    run_linear(layer.o, input_, batch.tokens, hidden_.data(), true, model_.residual_factor);
}

} // namespace flash
