// Causal attention within packed sequences, with dropout of its weights, and its gradient.
#pragma once

#include <cstdint>

#include "packed/packed_dropout.hpp"

namespace pdrec {

// [n_tokens, n_heads, width], adjacent along the width.
struct HeadsView {
  const float* data;
  std::int64_t token;  // strides
  std::int64_t head;
};

struct PackedAttentionArgs {
  std::int64_t n_sequences;
  std::int64_t n_heads;
  std::int64_t width;
  const std::int64_t* indptr;  // [n_sequences + 1]
  HeadsView q, k, v;
  // The word of (head h, query i, key j) of a sequence of length L is word j of the row h L + i, and
  // a row has ceil(L / 4) blocks.
  SequenceDropout dropout;
  // Of each query, [n_tokens, n_heads]: computed with the output, read for its gradient.
  float* maximum;  // of its scores
  float* inverse;  // 1 / the sum of exp((score - maximum) / sqrt(width))
};

struct PackedAttentionGradients {
  HeadsView grad_out;
  std::int64_t token;  // stride of the following, [n_tokens, n_heads, width] with adjacent heads
  float* grad_q;
  float* grad_k;
  float* grad_v;
};

constexpr int kQueries = 8;  // computed together
constexpr std::int64_t kKeyPadding = 16;
constexpr int kWordsSlack = 128;

// For sequences of up to `padded` tokens, a multiple of kKeyPadding.
struct PackedAttentionScratch {
  float* keys;                // [width, padded]: transposed
  float* values;              // likewise, for the gradient alone
  float* weights;             // [kQueries, padded]
  float* gradients;           // [kQueries, padded], for the gradient alone
  std::uint32_t* words;       // [kQueries * padded + kWordsSlack]
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
// Row r is head r % n_heads of sequence r / n_heads. out: [n_tokens, n_heads, width].
void packed_attention(const PackedAttentionArgs& args, float* out, std::int64_t begin,
                      std::int64_t end, const PackedAttentionScratch& scratch);
void packed_attention_backward(const PackedAttentionArgs& args,
                               const PackedAttentionGradients& gradients, std::int64_t begin,
                               std::int64_t end, const PackedAttentionScratch& scratch);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
