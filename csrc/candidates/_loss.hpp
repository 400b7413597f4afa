// What every loss of candidates' logits takes and gives.
#pragma once

#include "candidates/_vectors.hpp"

namespace pdrec {

struct CandidateLoss {
  Candidates candidates;
  Similarity similarity;
  const float* weights;  // of the shape that the loss says
  double* losses;        // [n_rows]
  // See _gradients.hpp.
  float* grad_dot;    // [n_rows, n_candidates]
  float* grad_item;   // [n_rows, n_candidates]
  float* grad_state;  // [n_rows]
};

}  // namespace pdrec
