// Logits of candidate items: dot products or cosines of states with gathered item rows.
#pragma once

#include "candidates/_vectors.hpp"

namespace pdrec {

struct ItemLogitsArgs {
  Candidates candidates;
  Similarity similarity;
  const float* bias;  // [n_items], or null
  float* logits;      // [n_rows, n_candidates]; -inf where absent
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
void item_logits(const ItemLogitsArgs& args, std::int64_t begin, std::int64_t end);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
