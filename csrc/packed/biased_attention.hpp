// Causal attention within packed sequences whose scores have biases of distance and of time, and
// its gradient.
#pragma once

#include <cstdint>

#include "packed/packed_attention.hpp"

namespace pdrec {

// A null pointer is no bias.
struct AttentionBiases {
  const float* distance;     // [n_distances], of query minus key; a larger one takes the last
  std::int64_t n_distances;
  const float* time;         // [n_begins], of the bucket of the time between the two
  const double* times;       // [n_tokens]
  const double* begins;      // [n_begins], rising from 0: where each bucket begins
  std::int64_t n_begins;
};

struct BiasedAttentionArgs {
  // maximum and inverse are those of scaled scores with their biases; null where pointwise.
  PackedAttentionArgs attention;
  AttentionBiases biases;
  bool pointwise;  // SiLU(score) / number of keys; else a softmax of scores times 1 / sqrt(width)
};

// Of the biases, summed over some of the sequences.
struct BiasSums {
  double* distance;  // [n_distances]
  double* time;      // [n_begins]
};

// For sequences of up to `longest` tokens.
struct BiasedAttentionScratch {
  PackedAttentionScratch tile;  // keys and values of all heads, [n_heads, width, padded]
  float* bias;                  // [kQueries, padded]
  float* grad_bias;             // [kQueries, padded], summed over heads; for the gradient alone
  std::int32_t* buckets;        // [kQueries, padded]
  // The bias of every distance, the largest first, so that the keys of a query lie in their order:
  // [longest + kDistanceSlack], and the sums of its gradient likewise.
  float* distance;
  float* grad_distance;
  std::int64_t longest;
};
constexpr std::int64_t kDistanceSlack = kQueries + kKeyPadding;  // keys later than their query

#ifdef PDREC_ISA
namespace PDREC_ISA {
// Sequences [begin, end). out: [n_tokens, n_heads, width].
void biased_attention(const BiasedAttentionArgs& args, float* out, std::int64_t begin,
                      std::int64_t end, const BiasedAttentionScratch& scratch);
// Adds to the sums.
void biased_attention_backward(const BiasedAttentionArgs& args,
                               const PackedAttentionGradients& gradients, const BiasSums& sums,
                               std::int64_t begin, std::int64_t end,
                               const BiasedAttentionScratch& scratch);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
