// Softmax cross-entropy of each state's first candidate among all its candidates; for by_dot,
// by_item and by_state see candidate_gradients.hpp.
#pragma once

#include "candidates/vectors.hpp"

namespace pdrec {

struct SampledSoftmaxArgs {
  Candidates candidates;  // at least one a row
  Similarity similarity;
  const float* weights;  // [n_rows]
  double* losses;        // [n_rows]
  float* by_dot;         // [n_rows, n_candidates]
  float* by_item;        // [n_rows, n_candidates]
  float* by_state;       // [n_rows]
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
void sampled_softmax(const SampledSoftmaxArgs& args, std::int64_t begin, std::int64_t end);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
