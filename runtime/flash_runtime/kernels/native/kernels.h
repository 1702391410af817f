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
constexpr int kAttentionRows = 48;      // query rows of one attention job
constexpr int kMaxHeadDim = 256;

// int8 activations, row r at values + r * groups * kGroup, its group constants at scale/offset + r * groups.
struct QuantRows {
    int8_t* values;
    float* scale;
    int32_t* offset; // -kZeroPoint * sum(values of the group)
};

// out[r, c] (+)= (x[r] . w[c] * w_scale[c] + bias[c]) * factor for the columns from panel_begin * kLanes on.
struct LinearJob {
    const uint8_t* weight; // panel 0 of the linear, [panels][groups * kGroupLines][kLanes][4]
    const float* weight_scale;
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
    const uint16_t* keys;   // bf16 [block][...][head_dim][block_size], at the head
    const uint16_t* values; // bf16 [block][...][block_size][value_dim], at the head
    ptrdiff_t key_block_stride;
    ptrdiff_t value_block_stride;
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
};

struct Kernels {
    const char* name;
    // Quantise count floats into ceil(count / kGroup) groups, the tail filled with zeros.
    void (*quantise)(const float* x, int count, int8_t* values, float* scale, int32_t* offset);
    void (*linear)(const LinearJob& job);
    void (*attention)(const AttentionJob& job);
    void (*rms_norm)(const float* x, const float* weight, int count, float epsilon, float* out);
    // Rotate the two halves of x by the angles given as cosine and sine [half].
    void (*rope)(float* x, const float* cosine, const float* sine, int half);
    // out = silu(gate) * up
    void (*swiglu)(const float* gate, const float* up, int count, float* out);
    void (*softmax)(float* x, int count);
    // out[t * experts + e] = x[t * width ...] . weight[e * width ...]
    void (*router)(const float* x, int tokens, const float* weight, int experts, int width, float* out);
    // out += factor * x
    void (*add_scaled)(const float* x, float factor, int count, float* out);
    void (*to_bf16)(const float* x, int count, uint16_t* out);
};

const Kernels& portable_kernels();
#if defined(FLASH_WITH_AVX512)
const Kernels& avx512_kernels();
#endif

} // namespace flash
