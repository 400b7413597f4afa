// Softmax cross-entropy of each state's positive among all items, whose logits come in blocks.
#pragma once

#include "candidates/_item_products.hpp"
#include "candidates/_vectors.hpp"

namespace pdrec {

// Of a row, over the blocks that it has seen.
struct CorpusTotals {
  double largest;  // logit of a negative
  double sum;      // of exp(logit - largest) over the negatives
  double slopes_times_logits;
  double positive;  // its logit
};

struct CorpusSoftmaxArgs {
  // Products of states with the items from `first_item` on, and in their place, once the totals are
  // known, values e: the loss's derivatives by the products are factors_t e_ti.
  LogitBlock block;
  std::int64_t n_rows;
  std::int32_t first_item;
  Similarity similarity;
  const float* squares;           // [n_rows], of the states' norms; for cosines only
  const std::int32_t* positives;  // [n_rows]; -1: absent
  const float* weights;           // [n_rows]
  CorpusTotals* totals;           // [n_rows]
};

// What is known after the last block.
struct CorpusLosses : CorpusSoftmaxArgs {
  bool is_first;  // block of its rows
  bool is_last;
  double* losses;     // [n_rows]
  float* factors;     // [n_rows]
  float* grad_state;  // [n_rows], see _gradients.hpp
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
// Takes a block into the totals. Leaves derivatives in a block that is the first and the last of its
// rows, else nothing of use.
void corpus_softmax(const CorpusLosses& args, std::int64_t begin, std::int64_t end);
// All items at once with the products; args.block is not used.
void corpus_softmax_products(const CorpusLosses& args, const ItemProducts& products,
                             const PartOfRows& part);
// Derivatives in place of a block's products, by totals that are complete.
void corpus_derivatives(const CorpusSoftmaxArgs& args, std::int64_t begin, std::int64_t end);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
