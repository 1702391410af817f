// Causal attention over the paged cache: online softmax (Milakov & Gimelshein 2018) in chunks of kKeyChunk keys.
// Chunks are counted from position 0, so a row's result is the same however its prompt was cut into steps. Each split
// of kKeySplit keys has a softmax of its own and the splits are merged in order (flash-decoding, Dao et al. 2023), in
// one job or in several, with the same result. Of an int8 cache, a key's scale multiplies its scores and a value's scale
// its weights.
// Included only by the kernels_*.cpp files (see vec.h).
#pragma once

#include "vec.h"

namespace flash {
namespace {

constexpr int kChunkVecs = kKeyChunk / kLanes;
constexpr int kRowTile = 6;

// What is known of a softmax so far.
struct Sums {
    float max[kAttentionRows];
    float total[kAttentionRows];
    alignas(64) float out[kAttentionRows * kMaxHeadDim]; // [rows][value_dim], unnormalised
};

struct ChunkState : Sums {
    float weight[kAttentionRows][kKeyChunk]; // scores, then softmax numerators
    float rescale[kAttentionRows];
    alignas(64) float widened[kKeyChunk * kMaxHeadDim]; // a chunk's keys, then its values
};

constexpr int kTogether = kWide == kLanes ? 4 : 2; // vectors of a row whose sums the registers hold, for kRowTile rows

constexpr int kDirectRows = 2 * kRowTile; // of a job that reads the cache itself; more share what was widened once

// Where each vector of kLanes keys of a chunk lies.
template <class Element> struct ChunkPlace {
    const Element* keys[kChunkVecs];
    const Element* values[kChunkVecs];
    ptrdiff_t key_stride; // from a feature of the keys to the next
};

// The scales of an int8 chunk, per vector of keys.
struct ChunkScales {
    const float* key[kChunkVecs];
    const float* value[kChunkVecs];
};

// scores[r][key] = q[r] . k[key] for the chunk's keys.
template <int Rows, bool Scaled, class Element>
FLASH_INLINE void score_tile(const AttentionJob& job, const ChunkPlace<Element>& place, const ChunkScales& scales,
                             int row, ChunkState& state) {
    for (int at = 0; at < kKeyChunk; at += kTogether * kWide) {
        const Element* from[kTogether];
        for (int v = 0; v < kTogether; ++v) {
            const int key = at + v * kWide;
            from[v] = place.keys[key / kLanes] + key % kLanes;
        }
        Wide total[Rows][kTogether]; // = {} would fill memory first
        for (int r = 0; r < Rows; ++r) {
            for (int v = 0; v < kTogether; ++v) total[r][v] = Wide{};
        }
        for (int d = 0; d < job.head_dim; ++d) {
            Wide key[kTogether];
            for (int v = 0; v < kTogether; ++v) {
                key[v] = wide_from_cache(from[v] + d * place.key_stride);
            }
            for (int r = 0; r < Rows; ++r) {
                const float query = job.query[row + r][d];
                for (int v = 0; v < kTogether; ++v) total[r][v] = total[r][v] + key[v] * query;
            }
        }
        for (int r = 0; r < Rows; ++r) {
            for (int v = 0; v < kTogether; ++v) {
                const int key = at + v * kWide;
                if constexpr (Scaled) {
                    total[r][v] = total[r][v] * load_wide(scales.key[key / kLanes] + key % kLanes);
                }
                store_wide(state.weight[row + r] + key, total[r][v] * job.scale);
            }
        }
    }
}

// Turns one row's scores into numerators under the running maximum; keys outside first..visible-1 get weight zero.
// What is left are the values' weights: numerators, times the values' scales if they have some.
template <bool Scaled> void update_row(const ChunkScales& scales, ChunkState& state, int row, int first, int visible) {
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
        total = total + numerator;
        if constexpr (Scaled) {
            // a key that is not seen may have any scale, NaN too, left by whoever had the block before
            const Vec scaled = numerator * load(scales.value[v]);
            store(weight + v * kLanes, numerator > splat(0.0f) ? scaled : Vec{});
        } else {
            store(weight + v * kLanes, numerator);
        }
    }
    const bool same = state.max[row] == max; // most often so, and exp(0) is 1
    const float rescale = same ? 1.0f : exponential(splat(state.max[row] - max))[0];
    state.rescale[row] = rescale;
    state.total[row] = state.total[row] * rescale + sum(total);
    state.max[row] = max;
}

// The keys of a chunk, counted from its begin, that the rows of a tile see: each of its own, and those that all share.
template <int Rows> struct TileKeys {
    int first[Rows];
    int end[Rows];
    int any_first = kKeyChunk; // seen by some row
    int any_end = 0;
    int all_first = 0; // seen by every row
    int all_end = kKeyChunk;

    TileKeys(const AttentionJob& job, int chunk_begin, int num_keys, int row) {
        for (int r = 0; r < Rows; ++r) {
            const int from = job.first[row + r] - chunk_begin;
            const int to = job.visible[row + r] - chunk_begin;
            first[r] = from > 0 ? from : 0;
            end[r] = to < num_keys ? to : num_keys;
            any_first = first[r] < any_first ? first[r] : any_first;
            any_end = end[r] > any_end ? end[r] : any_end;
            all_first = first[r] > all_first ? first[r] : all_first;
            all_end = end[r] < all_end ? end[r] : all_end;
        }
        all_first = all_first < any_end ? all_first : any_end;
        all_end = all_end > all_first ? all_end : all_first;
    }
    bool sees(int r, int key) const { return key >= first[r] && key < end[r]; }
};

// out[r][dims] = out[r][dims] * rescale[r] + weights . values, for so many vectors of dims. A value that a row does not
// see is left out, not multiplied by zero: it may be a NaN.
template <int Rows, int Vecs, class Element>
FLASH_INLINE void value_tile(const AttentionJob& job, const ChunkPlace<Element>& place, const TileKeys<Rows>& seen,
                             int row, int dim, ChunkState& state) {
    Wide total[Rows][Vecs];
    for (int r = 0; r < Rows; ++r) {
        const float* from = state.out + (row + r) * job.value_dim + dim;
        for (int v = 0; v < Vecs; ++v) total[r][v] = load_wide(from + v * kWide) * state.rescale[row + r];
    }
    const auto read = [&](int key, Wide (&value)[Vecs]) __attribute__((always_inline)) {
        const Element* from = place.values[key / kLanes] + static_cast<ptrdiff_t>(key % kLanes) * job.value_dim + dim;
        for (int v = 0; v < Vecs; ++v) value[v] = wide_from_cache(from + v * kWide);
    };
    const auto add_to_some = [&](int begin, int end) __attribute__((always_inline)) {
        for (int key = begin; key < end; ++key) {
            Wide value[Vecs];
            read(key, value);
            for (int r = 0; r < Rows; ++r) {
                if (!seen.sees(r, key)) continue;
                const float weight = state.weight[row + r][key];
                for (int v = 0; v < Vecs; ++v) total[r][v] = total[r][v] + value[v] * weight;
            }
        }
    };
    add_to_some(seen.any_first, seen.all_first);
    for (int key = seen.all_first; key < seen.all_end; ++key) {
        Wide value[Vecs];
        read(key, value);
        for (int r = 0; r < Rows; ++r) {
            const float weight = state.weight[row + r][key];
            for (int v = 0; v < Vecs; ++v) total[r][v] = total[r][v] + value[v] * weight;
        }
    }
    add_to_some(seen.all_end, seen.any_end);
    for (int r = 0; r < Rows; ++r) {
        float* to = state.out + (row + r) * job.value_dim + dim;
        for (int v = 0; v < Vecs; ++v) store_wide(to + v * kWide, total[r][v]);
    }
}

// One row tile's scores, turned into weights.
template <int Rows, bool Scaled, class Element>
void weight_tile(const AttentionJob& job, const ChunkPlace<Element>& place, const ChunkScales& scales, int chunk_begin,
                 int row, ChunkState& state) {
    score_tile<Rows, Scaled>(job, place, scales, row, state);
    for (int r = row; r < row + Rows; ++r) {
        update_row<Scaled>(scales, state, r, job.first[r] - chunk_begin, job.visible[r] - chunk_begin);
    }
}

template <int Rows, class Element>
void value_tiles(const AttentionJob& job, const ChunkPlace<Element>& place, int chunk_begin, int num_keys, int row,
                 ChunkState& state) {
    const TileKeys<Rows> seen(job, chunk_begin, num_keys, row);
    int dim = 0;
    for (; dim + kTogether * kWide <= job.value_dim; dim += kTogether * kWide) {
        value_tile<Rows, kTogether>(job, place, seen, row, dim, state);
    }
    for (; dim < job.value_dim; dim += kWide) value_tile<Rows, 1>(job, place, seen, row, dim, state);
}

template <int Rows> struct RowCount {
    static constexpr int value = Rows;
};

// Calls body(rows, row) for each row tile, with the number of its rows as a constant.
template <class Body> FLASH_INLINE void for_row_tiles(int rows, const Body& body) {
    for (int row = 0; row < rows; row += kRowTile) {
        switch (rows - row) {
        case 1: body(RowCount<1>{}, row); break;
        case 2: body(RowCount<2>{}, row); break;
        case 3: body(RowCount<3>{}, row); break;
        case 4: body(RowCount<4>{}, row); break;
        case 5: body(RowCount<5>{}, row); break;
        default: body(RowCount<6>{}, row); break;
        }
    }
}

// One chunk for all rows of the job. Many row tiles read its keys, and then its values, as floats that were widened once:
// widening for each tile anew would keep busy the units that add.
template <class Element>
void attend_chunk(const AttentionJob& job, const ChunkPlace<Element>& place, const ChunkScales& scales, int begin,
                  int num_keys, ChunkState& state) {
    constexpr bool kScaled = sizeof(Element) == 1;
    if (job.rows <= kDirectRows) {
        for_row_tiles(job.rows, [&](auto rows, int row) {
            constexpr int kRows = decltype(rows)::value;
            weight_tile<kRows, kScaled>(job, place, scales, begin, row, state);
            value_tiles<kRows>(job, place, begin, num_keys, row, state);
        });
        return;
    }
    ChunkPlace<float> wide;
    wide.key_stride = kKeyChunk;
    float* to = state.widened;
    for (int d = 0; d < job.head_dim; ++d) {
        for (int key = 0; key < kKeyChunk; key += kWide, to += kWide) {
            store_wide(to, wide_from_cache(place.keys[key / kLanes] + d * place.key_stride + key % kLanes));
        }
    }
    for (int v = 0; v < kChunkVecs; ++v) wide.keys[v] = state.widened + v * kLanes;
    for_row_tiles(job.rows, [&](auto rows, int row) {
        weight_tile<decltype(rows)::value, kScaled>(job, wide, scales, begin, row, state);
    });
    const int vector = kLanes * job.value_dim;
    for (int v = 0; v < kChunkVecs; ++v) {
        wide.values[v] = state.widened + v * vector;
        for (int i = 0; i < vector; i += kWide) {
            store_wide(state.widened + v * vector + i, wide_from_cache(place.values[v] + i));
        }
    }
    for_row_tiles(job.rows, [&](auto rows, int row) {
        value_tiles<decltype(rows)::value>(job, wide, begin, num_keys, row, state);
    });
}

struct KeyRange {
    int begin;
    int end;
};

// The keys that any row of the job sees.
KeyRange seen_keys(const AttentionJob& job) {
    KeyRange seen{job.first[0], 0};
    for (int r = 0; r < job.rows; ++r) {
        seen.end = job.visible[r] > seen.end ? job.visible[r] : seen.end;
        seen.begin = job.first[r] < seen.begin ? job.first[r] : seen.begin;
    }
    return seen;
}

// The softmax over the seen keys of one split.
template <class Element> void attend_split_of(const AttentionJob& job, KeyRange seen, int split, ChunkState& state) {
    const Element* const keys = static_cast<const Element*>(job.keys);
    const Element* const values = static_cast<const Element*>(job.values);
    for (int r = 0; r < job.rows; ++r) {
        state.max[r] = -__builtin_inff();
        state.total[r] = 0.0f;
    }
    std::memset(state.out, 0, sizeof(float) * static_cast<size_t>(job.rows * job.value_dim));
    const int split_begin = split * kKeySplit;
    const int end = seen.end - split_begin < kKeySplit ? seen.end : split_begin + kKeySplit;
    // whole chunks that no row sees are left out; others count from position 0 all the same
    const int first = seen.begin > split_begin ? seen.begin : split_begin;
    const int held = first / kLanes * kLanes; // the cache need not hold what comes before
    for (int begin = first / kKeyChunk * kKeyChunk; begin < end; begin += kKeyChunk) {
        const int num_keys = end - begin < kKeyChunk ? end - begin : kKeyChunk;
        ChunkPlace<Element> place;
        ChunkScales scales{};
        place.key_stride = job.block_size;
        for (int v = 0; v < kChunkVecs; ++v) {
            // past the end and before all rows' windows another vector is read in its place; the scores are masked
            const int wanted = begin + (v * kLanes < num_keys ? v * kLanes : 0);
            const int position = wanted < held ? held : wanted;
            const ptrdiff_t block = job.blocks[position / job.block_size];
            const ptrdiff_t inside = position % job.block_size;
            place.keys[v] = keys + block * job.key_block_stride + inside;
            place.values[v] = values + block * job.value_block_stride + inside * job.value_dim;
            if (job.key_scale) {
                scales.key[v] = job.key_scale + block * job.scale_block_stride + inside;
                scales.value[v] = job.value_scale + block * job.scale_block_stride + inside;
            }
        }
        attend_chunk(job, place, scales, begin, num_keys, state);
    }
}

void attend_split(const AttentionJob& job, KeyRange seen, int split, ChunkState& state) {
    if (job.key_scale) {
        attend_split_of<int8_t>(job, seen, split, state);
    } else {
        attend_split_of<uint16_t>(job, seen, split, state);
    }
}

// Adds one row's softmax of a split to that of the splits before it. The first split a row sees is taken as it is.
void merge_row(const AttentionJob& job, int row, int split, float max, float total, const float* out, Sums& merged) {
    if (job.visible[row] <= split * kKeySplit || job.first[row] >= (split + 1) * kKeySplit) return;
    float* to = merged.out + row * job.value_dim;
    if (split == job.first[row] / kKeySplit) {
        merged.max[row] = max;
        merged.total[row] = total;
        std::memcpy(to, out, sizeof(float) * static_cast<size_t>(job.value_dim));
        return;
    }
    const float top = max > merged.max[row] ? max : merged.max[row];
    const float before = exponential(splat(merged.max[row] - top))[0];
    const float now = exponential(splat(max - top))[0];
    merged.max[row] = top;
    merged.total[row] = merged.total[row] * before + total * now;
    for (int d = 0; d < job.value_dim; d += kLanes) store(to + d, load(to + d) * before + load(out + d) * now);
}

void write_out(const AttentionJob& job, const Sums& sums) {
    for (int r = 0; r < job.rows; ++r) {
        for (int d = 0; d < job.head_dim; d += kLanes) {
            const Vec value = load(sums.out + r * job.value_dim + d) / splat(sums.total[r]);
            store_up_to(job.out[r] + d, value, job.head_dim - d);
        }
    }
}

void attention(const AttentionJob& job) {
    const KeyRange seen = seen_keys(job);
    ChunkState state;
    int split = seen.begin / kKeySplit;
    if (seen.end <= (split + 1) * kKeySplit) {
        attend_split(job, seen, split, state);
        write_out(job, state);
        return;
    }
    Sums merged;
    for (; split * kKeySplit < seen.end; ++split) {
        attend_split(job, seen, split, state);
        for (int r = 0; r < job.rows; ++r) {
            merge_row(job, r, split, state.max[r], state.total[r], state.out + r * job.value_dim, merged);
        }
    }
    write_out(job, merged);
}

void attention_parts(const AttentionJob& job) {
    const KeyRange seen = seen_keys(job);
    const ptrdiff_t stride = job.value_dim + kLanes;
    ChunkState state;
    for (int split = job.split_begin; split < job.split_end; ++split) {
        attend_split(job, seen, split, state);
        float* part = job.parts + (split - job.split_begin) * job.part_floats();
        for (int r = 0; r < job.rows; ++r, part += stride) {
            std::memcpy(part, state.out + r * job.value_dim, sizeof(float) * static_cast<size_t>(job.value_dim));
            part[job.value_dim] = state.max[r];
            part[job.value_dim + 1] = state.total[r];
        }
    }
}

void attention_merge(const AttentionJob& job) {
    const ptrdiff_t stride = job.value_dim + kLanes;
    Sums merged;
    for (int split = job.split_begin; split < job.split_end; ++split) {
        const float* part = job.parts + (split - job.split_begin) * job.part_floats();
        for (int r = 0; r < job.rows; ++r, part += stride) {
            merge_row(job, r, split, part[job.value_dim], part[job.value_dim + 1], part, merged);
        }
    }
    write_out(job, merged);
}

} // namespace
} // namespace flash
