// Weighted binary cross-entropy of candidates' logits; for by_dot, by_item and by_state see
// candidate_gradients.hpp.
#pragma once

#include "candidates/vectors.hpp"

namespace pdrec {

struct WeightedBceArgs {
  Candidates candidates;
  Similarity similarity;
  const float* weights;      // [n_rows, n_candidates]
  std::int64_t n_positives;  // the first so many candidates of a row
  double* losses;            // [n_rows]
  float* by_dot;             // [n_rows, n_candidates]
  float* by_item;            // [n_rows, n_candidates]
  float* by_state;           // [n_rows]
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
void weighted_bce(const WeightedBceArgs& args, std::int64_t begin, std::int64_t end);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
