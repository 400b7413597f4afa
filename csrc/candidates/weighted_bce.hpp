// Weighted binary cross-entropy of candidates' logits.
#pragma once

#include "candidates/_loss.hpp"

namespace pdrec {

struct WeightedBceArgs : CandidateLoss {  // weights: [n_rows, n_candidates]
  std::int64_t n_positives;               // the first so many candidates of a row
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
void weighted_bce(const WeightedBceArgs& args, std::int64_t begin, std::int64_t end);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
