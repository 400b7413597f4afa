// A block of SASRec forward and backward, a few sequences at a time, so that what one step writes
// is in the cache for the next.
//
//   queries = norm(x); [q, k, v] = [queries Wq' + bq, x Wkv' + bkv]
//   total = queries + attention(q, k, v) Wo' + bo; normed = norm(total)
//   hidden = relu(drop(normed W1' + b1)); out = normed + drop(hidden W2' + b2)
#pragma once

#include <cstdint>

#include "packed/packed_attention.hpp"
#include "packed/packed_dropout.hpp"

namespace pdrec {

// Parameters of a block of width d, or places for their gradients.
template <class Float>
struct BlockParameters {
  Float* query_gain;   // [d]
  Float* query_shift;  // [d]
  Float* in_weight;    // [3 d, d]: of queries, keys, values
  Float* in_bias;      // [3 d]
  Float* out_weight;   // [d, d], and so on
  Float* out_bias;
  Float* gain;
  Float* shift;
  Float* hidden_weight;
  Float* hidden_bias;
  Float* last_weight;
  Float* last_bias;
};

// What the gradient needs of the forward pass, of tokens one after another.
struct BlockStates {
  float* queries;  // [n_tokens, d]
  float* attended;
  float* total;
  float* normed;
  float* hidden;
  float* projected;           // [n_tokens, 3 d]
  float* query_statistics;    // [n_tokens, 2]: mean and 1 / standard deviation
  float* forward_statistics;  // [n_tokens, 2]
  float* maximum;             // [n_tokens, n_heads], see PackedAttentionArgs
  float* inverse;
  std::uint8_t* kept;  // [n_tokens, d]: whether the last dropout kept it; or null
};

struct SasrecBlockArgs {
  std::int64_t n_sequences;
  std::int64_t n_heads;
  std::int64_t width;  // d
  const std::int64_t* indptr;
  SequenceDropout dropout;  // of the attention; the next two streams are the layers'
  float eps;                // of the norms
  BlockParameters<const float> parameters;
  const float* x;  // [n_tokens, d]
  BlockStates states;
  bool keep;  // the states; else they have room for one chunk alone, see block_chunk
};

struct SasrecBlockGradients {
  const float* grad_out;
  float* grad_x;
  BlockParameters<float> parameters;  // added to
};

// Sequences worked on together from `begin` on: as many as have kChunkTokens tokens, or one.
constexpr std::int64_t kChunkTokens = 128;
static inline std::int64_t chunk_end(const std::int64_t* indptr, std::int64_t begin, std::int64_t end) {
  std::int64_t at = begin + 1;
  while (at < end && indptr[at + 1] - indptr[begin] <= kChunkTokens) ++at;
  return at;
}

// For chunks of up to n sequences and t tokens.
struct SasrecBlockScratch {
  PackedAttentionScratch attention;
  float* weights;        // [6 d, d], transposed: in, out, hidden, last; for the forward pass
  std::int64_t* indptr;  // [n + 1]
  float* gradients;      // [7 t d], for the gradient
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
// Sequences [begin, end).
void sasrec_block(const SasrecBlockArgs& args, float* out, std::int64_t begin, std::int64_t end,
                  const SasrecBlockScratch& scratch);
void sasrec_block_backward(const SasrecBlockArgs& args, const SasrecBlockGradients& gradients,
                           std::int64_t begin, std::int64_t end,
                           const SasrecBlockScratch& scratch);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
