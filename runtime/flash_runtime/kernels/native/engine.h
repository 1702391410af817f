// One loaded model on the CPU: weights by pointer, its paged key/value cache, and the step that runs a batch.
// Knows no Python, no files and no scheduling; sizes and pointers were checked by whoever built the Model.
//
// Legend: T tokens of the step, R rows of logits, C rows of which only the best
// token is wanted, H hidden size, A = heads * head_dim, F expert width, V vocabulary.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "linear_weights.h"
#include "pool.h"

namespace flash {

constexpr int kRowBlock = 192; // rows of a task: a multiple of the register tile, few enough for the L2 cache

inline int divide_up(int a, int b) { return (a + b - 1) / b; }

// down(silu(gate(x)) * up(x)), or experts of it one after the other.
struct Swiglu {
    Linear gate_up; // rows: gate 0..F-1, up F..2F-1
    Linear down;
    int width = 0; // F
};

struct Layer {
    const float* attn_norm = nullptr; // [H]
    Linear qkv;                       // rows: q heads, k heads, v heads
    const float* q_norm = nullptr;    // [head_dim], or [heads * head_dim] if together; null: none
    const float* k_norm = nullptr;    // [head_dim], or [kv_heads * head_dim]
    bool norm_together = false;       // q_norm and k_norm see all heads as one vector
    int window = 0;                   // positions a token sees, its own among them; 0: all before it
    Linear o;
    const float* mlp_norm = nullptr; // [H]
    const float* router = nullptr;   // [E, H], null: dense
    int experts = 1;
    int top_k = 1;
    bool normalise = false;
    Swiglu mlp;                         // dense, or the routed experts
    Swiglu shared;                      // the expert that every token passes
    const float* shared_gate = nullptr; // [H], null: no shared expert
};

struct Model {
    int hidden = 0;
    int heads = 0;
    int kv_heads = 0;
    int head_dim = 0;
    int vocab = 0;
    float norm_epsilon = 0;
    int max_positions = 0;
    const float* rope_inv_freq = nullptr; // [head_dim / 2]
    float rope_scale = 1;
    float embedding_factor = 1;
    float score_factor = 1; // on attention scores, usually 1 / sqrt(head_dim)
    float residual_factor = 1;
    float logits_factor = 1;
    Linear embedding;                  // [V, H], rows looked up
    const float* final_norm = nullptr; // [H]
    Linear head;                       // [V, H]
    std::vector<Layer> layers;
};

struct Batch {
    const int32_t* token_ids; // [T]
    const int32_t* positions; // [T]
    int tokens;
    const int32_t* query_starts; // [sequences + 1]
    int sequences;
    const int32_t* block_tables; // [sequences, blocks_per_row], negative where no token sees the block
    int blocks_per_row;
    const int32_t* logit_rows; // [R]
    int rows;
    const int32_t* best_rows; // [C]
    int best;
};

constexpr int32_t kNoToken = -1; // of a row whose logits are not finite

// Rounded activations that grow with the largest step seen.
struct QuantBuffer {
    std::vector<int8_t> values;
    std::vector<float> scale;
    std::vector<int32_t> offset;
    std::vector<float> rounded;
    LinearFormat format = LinearFormat::int8;
    int groups = 0; // per row

    void shape(int rows, int inputs, LinearFormat weights);
    QuantRows row(ptrdiff_t index) { return group(index, 0); }
    QuantRows group(ptrdiff_t row, int group); // from this group of the row on
};

class Engine {
public:
    Engine(Model model, const Kernels& kernels, int threads, int num_blocks, int block_size,
           CacheFormat cache_format = CacheFormat::bf16);

    // logits: [R + C, V]. best: [C] the token of the highest logit, the lowest id among equals, or kNoToken. Throws
    // std::invalid_argument if an index is out of range; steps of several threads queue up.
    void step(const Batch& batch, float* logits, int32_t* best);

    int threads() const { return pool_.threads(); }

    int num_layers() const { return static_cast<int>(model_.layers.size()); }
    // Experts of the layer with the most of them; 0 if no layer routes.
    int most_experts() const { return most_experts_; }
    // Tokens that chose each expert since construction [layers, most_experts]. Safe to read during a step.
    void expert_load(int64_t* out) const;

private:
    struct Tile { // query rows of one sequence, counted over (token, query head of the group)
        int sequence;
        int begin;
        int rows;
    };
    struct Share { // rows of one expert
        int expert;
        int begin;
        int end;
    };

    struct CacheLayer { // block 0, head 0 of one layer's keys and values
        uint8_t* keys;
        uint8_t* values;
        float* key_scale; // of int8, else null
        float* value_scale;
    };

    void check(const Batch& batch) const;
    void prepare(const Batch& batch);
    // Calls body(begin, end) over ranges of 0..count; few rows stay on this thread: a wake-up would cost more.
    template <class Body> void for_rows(int count, const Body& body) {
        if (count <= 4) {
            body(0, count);
            return;
        }
        const int size = divide_up(count, pool_.threads() * 4);
        pool_.run(divide_up(count, size), [&](int i) { body(i * size, std::min(count, (i + 1) * size)); });
    }

    struct Cut { // of a linear into tasks: each a block of rows and a chunk of so many panels
        int panels;
        int chunks;
        int tasks;
    };
    Cut cut(const Linear& linear, int rows) const;
    LinearJob linear_job(const Linear& linear, const Cut& cut, int task, QuantBuffer& input, int rows, float* out);
    // out = factor * linear(input), or added to what is there.
    void run_linear(const Linear& linear, QuantBuffer& input, int rows, float* out, bool accumulate, float factor);
    void embed(const Batch& batch);
    void head(const Batch& batch, float* logits, int32_t* best);
    void norm_rows(const float* weight, int rows, const int32_t* index, LinearFormat format);
    void attention(const Batch& batch, const Layer& layer, size_t layer_index);
    AttentionJob attention_job(const Batch& batch, const Layer& layer, size_t layer_index, const Tile& tile,
                               int kv_head);
    CacheLayer cache_layer(size_t layer_index) const;
    void write_token(const CacheLayer& cache, ptrdiff_t block, int inside, const float* key, const float* value);
    void attend_in_parts(const Batch& batch, const Layer& layer, size_t layer_index);
    void write_cache(const Batch& batch, const Layer& layer, size_t layer_index);
    void route(const Layer& layer, size_t layer_index, int tokens);
    void share_rows(int tokens);
    void hidden_features(const Swiglu& mlp, const int32_t* row_index, int rows);
    void hidden_group(const Swiglu& mlp, const int32_t* row_index, const Share& share, int group,
                      const uint8_t* next);
    void outputs(const Swiglu& mlp, int rows);
    void routed(const Layer& layer, size_t layer_index, int tokens);
    void shared(const Layer& layer, int tokens);
    void mlp(const Layer& layer, size_t layer_index, int tokens);

    Model model_;
    const Kernels& kernels_;
    Pool pool_;
    std::mutex mutex_;

    int window_ = 0; // positions a token sees in the layer that sees most, its own among them; 0: all before it
    int most_experts_ = 0;
    std::vector<std::atomic<int64_t>> load_; // [layers, most_experts], written by the step alone

    int num_blocks_;
    int block_size_;
    int value_dim_;                    // head_dim rounded up to kLanes
    ptrdiff_t key_head_, value_head_;  // elements of one (block, head)
    ptrdiff_t key_layer_, value_layer_; // elements of one layer
    CacheFormat cache_format_;
    struct Unmap {
        size_t bytes;
        void operator()(uint8_t* memory) const;
    };
    // Keys of all layers, then values of all layers; of int8, then the scales of keys and those of values.
    std::unique_ptr<uint8_t, Unmap> cache_;

    // scratch of a step
    std::vector<float> hidden_;       // [T, H] the residual stream
    std::vector<float> normed_;       // [T, H]
    std::vector<float> qkv_;          // [T, A + 2 * kv_heads * head_dim]
    std::vector<float> attended_;     // [T, A]
    std::vector<float> parts_;        // of attention over long sequences
    std::vector<float> cosine_;       // [T, head_dim / 2]
    std::vector<float> sine_;         // [T, head_dim / 2]
    std::vector<int> sequence_of_;    // [T]
    std::vector<Tile> tiles_;
    std::vector<float> probability_;  // [T, E]
    std::vector<float> chosen_weight_; // [T, top_k]
    std::vector<int32_t> chosen_;     // [T, top_k]
    std::vector<int32_t> slot_;       // [T, top_k] row of the choice among the rows sorted by expert
    std::vector<int32_t> slot_token_; // [T * top_k]
    std::vector<Share> shares_;
    std::vector<float> expert_out_;   // [T * top_k, H]
    std::vector<float> shared_weight_; // [T]
    std::vector<int32_t> head_rows_;  // [R + C]
    std::vector<float> highest_;      // [C, chunks of the head]
    QuantBuffer input_;               // of hidden rows or attention outputs
    QuantBuffer activation_;          // of expert hidden rows
};

} // namespace flash
