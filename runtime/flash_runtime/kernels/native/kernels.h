// The kernel table: every inner loop of a step as a function pointer, one table per instruction set.
//
// All tables compute the same bits. Integers are exact; floats use one order of operations everywhere, with separate
// multiply and add (no fused contraction), so a result depends neither on the instruction set nor on the rows that
// happen to share a step. Plain C types only: files compiled with special flags must not instantiate shared templates.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flash {

constexpr int kLanes = 16;              // output features of one 64-byte weight line
constexpr int kGroup = 64;              // input features that share one activation scale
constexpr int kGroupLines = kGroup / 4; // weight lines of one group in one panel
constexpr int kZeroPoint = 128;         // added to int8 weights: the dot product wants one unsigned operand
constexpr int kKeyChunk = 64;           // keys per softmax update, counted from position 0
constexpr int kKeySplit = 1024;         // keys whose softmax is summed by itself before it is merged, from position 0
constexpr int kAttentionRows = 48;      // query rows of one attention job
constexpr int kMaxHeadDim = 256;
constexpr int kInt4Group = 32; // input features that share one d and m of int4 weights
constexpr int kInt4PerGroup = kGroup / kInt4Group;
constexpr int kInt4Scales = 1 + kInt4PerGroup; // constants of an activation group for int4 weights

enum class CacheFormat : uint8_t { bf16, int8 }; // of keys and values; int8 with a scale per token and head

enum class LinearFormat : uint8_t { int8, int4, bf16 };

// Bytes of one panel's weights over `groups` activation groups.
constexpr size_t panel_bytes(LinearFormat format, int groups) {
    const size_t elements = static_cast<size_t>(groups) * kGroup * kLanes;
    return format == LinearFormat::int4 ? elements / 2 : format == LinearFormat::bf16 ? elements * 2 : elements;
}

// Activations of rows, rounded for the format of the weights they will meet; the others' pointers are not used.
// Row r lies r * groups of these further:
struct QuantRows {
    int8_t* values;  // int8, int4: kGroup values
    float* scale;    // int8: one; int4: kInt4Scales, the scale and the scale times the sum of each half's values
    int32_t* offset; // int8: -kZeroPoint * sum(values)
    float* rounded;  // bf16: kGroup values
};

// out[r, c] (+)= (x[r] . w[c] + bias[c]) * factor for the columns from panel_begin * kLanes on.
struct LinearJob {
    LinearFormat format;
    const uint8_t* weight;       // panel 0 of the linear
    const float* weight_scale;   // int8: [panels][kLanes], the factor of a column's dot product
    const uint16_t* group_scale; // int4: float16 [panels][groups * kInt4PerGroup][kLanes]
    const uint16_t* group_min;   // int4: as group_scale
    const float* bias; // null: none
    QuantRows input;
    const int32_t* row_index; // null: row r; else activations row of each output row
    int rows;
    int groups;
    int panel_begin;
    int panel_end;
    int columns; // columns to write, at most (panel_end - panel_begin) * kLanes
    float* out;  // first row, first column
    ptrdiff_t out_stride;
    bool accumulate;
    float factor = 1;
    const uint8_t* next; // null, or weights that this thread will probably read next: requested from memory early
};

// Causal attention of up to kAttentionRows query rows of one sequence that share one key/value head.
struct AttentionJob {
    const void* keys;         // bf16 or int8 [block][...][head_dim][block_size], at the head
    const void* values;       // bf16 or int8 [block][...][block_size][value_dim], at the head
    const float* key_scale;   // int8: [block][...][block_size], at the head; null: bf16
    const float* value_scale; // int8: as key_scale
    ptrdiff_t key_block_stride; // all three in elements
    ptrdiff_t value_block_stride;
    ptrdiff_t scale_block_stride;
    const int32_t* blocks; // physical block of each logical block
    int block_size;
    int head_dim;
    int value_dim; // head_dim rounded up to kLanes
    float scale;
    int rows;
    const float* query[kAttentionRows];
    float* out[kAttentionRows];
    int first[kAttentionRows];   // first key each row sees
    int visible[kAttentionRows]; // end of the keys each row sees, beyond `first`
    // Whole splits of kKeySplit keys may be computed by different jobs, whose parts are then merged in order:
    // [split][rows][value_dim + kLanes], of the splits split_begin..split_end - 1.
    float* parts;
    int split_begin;
    int split_end;

    ptrdiff_t part_floats() const { return static_cast<ptrdiff_t>(rows) * (value_dim + kLanes); }
};

struct Kernels {
    const char* name;
    // Quantise count floats into ceil(count / kGroup) groups, the tail filled with zeros.
    void (*quantise)(const float* x, int count, int8_t* values, float* scale, int32_t* offset);
    void (*linear)(const LinearJob& job);
    void (*attention)(const AttentionJob& job);       // all keys, to job.out
    void (*attention_parts)(const AttentionJob& job); // the job's splits, to job.parts
    void (*attention_merge)(const AttentionJob& job); // job.parts to job.out
    void (*rms_norm)(const float* x, const float* weight, int count, float epsilon, float* out);
    // Rotate the two halves of x by the angles given as cosine and sine [half].
    void (*rope)(float* x, const float* cosine, const float* sine, int half);
    // out = silu(gate) * up
    void (*swiglu)(const float* gate, const float* up, int count, float* out);
    void (*softmax)(float* x, int count);
    // The highest value, count > 0; NaN if any is.
    float (*highest)(const float* x, int count);
    // out[t * experts + e] = x[t * width ...] . weight[e * width ...]
    void (*router)(const float* x, int tokens, const float* weight, int experts, int width, float* out);
    // out += factor * x
    void (*add_scaled)(const float* x, float factor, int count, float* out);
    void (*to_bf16)(const float* x, int count, uint16_t* out);
    // Quantise count floats with one scale for all.
    void (*quantise_head)(const float* x, int count, int8_t* values, float* scale);
    // As quantise, for int4 weights: kInt4Scales constants per group, no offsets.
    void (*quantise_halves)(const float* x, int count, int8_t* values, float* scale);
    // Round to bfloat16 and widen again; whole groups, the tail filled with zeros.
    void (*round_bf16)(const float* x, int count, float* out);

    // Round one row's features, from the start of a group, for weights of the format.
    void prepare(LinearFormat format, const float* x, int count, const QuantRows& to) const {
        switch (format) {
        case LinearFormat::int8: quantise(x, count, to.values, to.scale, to.offset); break;
        case LinearFormat::int4: quantise_halves(x, count, to.values, to.scale); break;
        case LinearFormat::bf16: round_bf16(x, count, to.rounded); break;
        }
    }
};

const Kernels& portable_kernels();
#if defined(FLASH_WITH_X86)
const Kernels& avx512_kernels();  // AVX-512 with VNNI
const Kernels& avxvnni_kernels(); // AVX2 with the 256-bit dot product
const Kernels& avx2_kernels();
#endif

} // namespace flash
