// Softmax cross-entropy of each state's first candidate among its candidates and negatives that all
// states share.
#pragma once

#include "candidates/_item_products.hpp"
#include "candidates/_loss.hpp"

namespace pdrec {

struct SharedSoftmaxArgs : CandidateLoss {  // weights: [n_rows]; at least one candidate a row
  // Products of states with negatives, and in their place exponentials e: the loss's derivatives by
  // the products are factors_t e_ti.
  LogitBlock block;
  const std::int32_t* negatives;  // [block.n_items]
  const float* offsets;           // [block.n_items]
  float* factors;                 // [n_rows]
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
void shared_softmax(const SharedSoftmaxArgs& args, std::int64_t begin, std::int64_t end);
// The same with the products; args.block is not used.
void shared_softmax_products(const SharedSoftmaxArgs& args, const ItemProducts& products,
                             const PartOfRows& part);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
