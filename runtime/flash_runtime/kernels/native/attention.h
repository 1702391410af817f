// Causal attention over the paged cache: online softmax (Milakov & Gimelshein 2018) in chunks of kKeyChunk keys.
// Chunks are counted from position 0, so a row's result is the same however its prompt was cut into steps.
// Included only by the kernels_*.cpp files (see vec.h).
#pragma once

#include "vec.h"

namespace flash {
namespace {

constexpr int kChunkVecs = kKeyChunk / kLanes;
constexpr int kRowTile = 6;

struct ChunkState {
    float weight[kAttentionRows][kKeyChunk]; // scores, then softmax numerators
    float rescale[kAttentionRows];
    float max[kAttentionRows];
    float total[kAttentionRows];
    alignas(64) float out[kAttentionRows * kMaxHeadDim]; // [rows][value_dim], unnormalised
};

// scores[r][key] = q[r] . k[key] for the chunk's four vectors of keys.
template <int Rows>
FLASH_INLINE void score_tile(const AttentionJob& job, const uint16_t* const* keys, int row, ChunkState& state) {
    Vec total[Rows][kChunkVecs] = {};
    for (int d = 0; d < job.head_dim; ++d) {
        Vec key[kChunkVecs];
        for (int v = 0; v < kChunkVecs; ++v) key[v] = from_bf16(keys[v] + static_cast<ptrdiff_t>(d) * job.block_size);
        for (int r = 0; r < Rows; ++r) {
            const Vec query = splat(job.query[row + r][d]);
            for (int v = 0; v < kChunkVecs; ++v) total[r][v] = total[r][v] + query * key[v];
        }
    }
    for (int r = 0; r < Rows; ++r) {
        for (int v = 0; v < kChunkVecs; ++v) store(state.weight[row + r] + v * kLanes, total[r][v] * job.scale);
    }
}

// Turns one row's scores into numerators under the running maximum; keys outside first..visible-1 get weight zero.
void update_row(ChunkState& state, int row, int first, int visible) {
    float* weight = state.weight[row];
    if (visible <= 0 || first >= kKeyChunk) {
        std::memset(weight, 0, sizeof(float) * kKeyChunk);
        state.rescale[row] = 1.0f;
        return;
    }
    for (int i = 0; i < first; ++i) weight[i] = -__builtin_inff();
    for (int i = visible; i < kKeyChunk; ++i) weight[i] = -__builtin_inff();
    Vec top = load(weight);
    for (int v = 1; v < kChunkVecs; ++v) top = larger(load(weight + v * kLanes), top);
    const float chunk_max = largest(top);
    const float max = chunk_max > state.max[row] ? chunk_max : state.max[row];
    Vec total{};
    for (int v = 0; v < kChunkVecs; ++v) {
        const Vec numerator = exponential(load(weight + v * kLanes) - max);
        store(weight + v * kLanes, numerator);
        total = total + numerator;
    }
    const bool same = state.max[row] == max; // most often so, and exp(0) is 1
    const float rescale = same ? 1.0f : exponential(splat(state.max[row] - max))[0];
    state.rescale[row] = rescale;
    state.total[row] = state.total[row] * rescale + sum(total);
    state.max[row] = max;
}

// out[r][dims] = out[r][dims] * rescale[r] + weights . values
template <int Rows, int Vecs>
FLASH_INLINE void value_tile(const AttentionJob& job, const uint16_t* const* values, int num_keys, int row, int dim,
                             ChunkState& state) {
    Vec total[Rows][Vecs];
    for (int r = 0; r < Rows; ++r) {
        const float* from = state.out + (row + r) * job.value_dim + dim;
        for (int v = 0; v < Vecs; ++v) total[r][v] = load(from + v * kLanes) * state.rescale[row + r];
    }
    for (int key = 0; key < num_keys; ++key) {
        const uint16_t* from = values[key / kLanes] + static_cast<ptrdiff_t>(key % kLanes) * job.value_dim + dim;
        Vec value[Vecs];
        for (int v = 0; v < Vecs; ++v) value[v] = from_bf16(from + v * kLanes);
        for (int r = 0; r < Rows; ++r) {
            const Vec weight = splat(state.weight[row + r][key]);
            for (int v = 0; v < Vecs; ++v) total[r][v] = total[r][v] + weight * value[v];
        }
    }
    for (int r = 0; r < Rows; ++r) {
        float* to = state.out + (row + r) * job.value_dim + dim;
        for (int v = 0; v < Vecs; ++v) store(to + v * kLanes, total[r][v]);
    }
}

template <int Rows>
void row_tile(const AttentionJob& job, const uint16_t* const* keys, const uint16_t* const* values, int chunk_begin,
              int num_keys, int row, ChunkState& state) {
    score_tile<Rows>(job, keys, row, state);
    for (int r = row; r < row + Rows; ++r) {
        update_row(state, r, job.first[r] - chunk_begin, job.visible[r] - chunk_begin);
    }
    int dim = 0;
    for (; dim + 4 * kLanes <= job.value_dim; dim += 4 * kLanes) {
        value_tile<Rows, 4>(job, values, num_keys, row, dim, state);
    }
    for (; dim < job.value_dim; dim += kLanes) value_tile<Rows, 1>(job, values, num_keys, row, dim, state);
}

void attention(const AttentionJob& job) {
    ChunkState state;
    int longest = 0;
    int earliest = job.first[0];
    for (int r = 0; r < job.rows; ++r) {
        state.max[r] = -__builtin_inff();
        state.total[r] = 0.0f;
        longest = job.visible[r] > longest ? job.visible[r] : longest;
        earliest = job.first[r] < earliest ? job.first[r] : earliest;
    }
    std::memset(state.out, 0, sizeof(float) * static_cast<size_t>(job.rows * job.value_dim));
    // whole chunks that no row sees are left out; others count from position 0 all the same
    for (int begin = earliest / kKeyChunk * kKeyChunk; begin < longest; begin += kKeyChunk) {
        const int num_keys = longest - begin < kKeyChunk ? longest - begin : kKeyChunk;
        const uint16_t* keys[kChunkVecs];
        const uint16_t* values[kChunkVecs];
        for (int v = 0; v < kChunkVecs; ++v) {
            // past the end the first vector is read again; its scores are masked
            const int position = begin + (v * kLanes < num_keys ? v * kLanes : 0);
            const ptrdiff_t block = job.blocks[position / job.block_size];
            const ptrdiff_t inside = position % job.block_size;
            keys[v] = job.keys + block * job.key_block_stride + inside;
            values[v] = job.values + block * job.value_block_stride + inside * job.value_dim;
        }
        for (int row = 0; row < job.rows; row += kRowTile) {
            switch (job.rows - row) {
            case 1: row_tile<1>(job, keys, values, begin, num_keys, row, state); break;
            case 2: row_tile<2>(job, keys, values, begin, num_keys, row, state); break;
            case 3: row_tile<3>(job, keys, values, begin, num_keys, row, state); break;
            case 4: row_tile<4>(job, keys, values, begin, num_keys, row, state); break;
            case 5: row_tile<5>(job, keys, values, begin, num_keys, row, state); break;
            default: row_tile<6>(job, keys, values, begin, num_keys, row, state); break;
            }
        }
    }
    for (int r = 0; r < job.rows; ++r) {
        for (int d = 0; d < job.head_dim; d += kLanes) {
            const Vec value = load(state.out + r * job.value_dim + d) / splat(state.total[r]);
            store_up_to(job.out[r] + d, value, job.head_dim - d);
        }
    }
}

} // namespace
} // namespace flash
