// Means of each sequence's tokens, weighted by the softmax of their products with queries.
#pragma once

#include <cstdint>

namespace pdrec {

struct AttentionPoolingArgs {
  std::int64_t n_sequences;
  std::int64_t n_heads;
  std::int64_t width;
  const std::int64_t* indptr;  // [n_sequences + 1]
  const float* x;              // [indptr[n_sequences], width]
  const float* queries;        // [n_sequences, n_heads, width]
  float* out;                  // the shape of queries
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
// Sequences [begin, end). weights: room for the longest sequence, rounded up to 16 tokens.
void attention_pooling(const AttentionPoolingArgs& args, std::int64_t begin, std::int64_t end,
                       float* weights);
}
#endif

}  // namespace pdrec
