// Softmax cross-entropy of each state's first candidate among all its candidates.
#pragma once

#include "candidates/_loss.hpp"

#ifdef PDREC_ISA
namespace pdrec::PDREC_ISA {
// weights: [n_rows]; at least one candidate a row.
void sampled_softmax(const CandidateLoss& args, std::int64_t begin, std::int64_t end);
}  // namespace pdrec::PDREC_ISA
#endif
