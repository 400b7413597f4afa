// Gradients of a loss of candidates' logits.
//
// A logit is a function of state . item, |state|^2 and |item|^2, so a gradient needs per candidate
// the loss's derivative by the dot product, and for cosines the factors of the own vector that the
// derivatives by the squared norms contribute:
//   d_state_t = sum_c by_dot_tc item_c + by_state_t state_t
//   d_item_j  = sum_{tc: item_tc = j} (by_dot_tc state_t + by_item_tc item_j)
#pragma once

#include "candidates/vectors.hpp"

namespace pdrec {

struct StatesGradientArgs {
  Candidates candidates;
  float upstream;  // gradient of the loss
  const float* by_dot;
  const float* by_state;
  float* out;  // [n_rows, width]
};

// Candidates grouped by item.
struct TableGradientArgs {
  Candidates candidates;
  std::int64_t n_groups;
  const std::int32_t* group_items;   // [n_groups]
  const std::int64_t* group_starts;  // [n_groups + 1]
  const std::int32_t* order;         // positions in [n_rows, n_candidates]
  float upstream;
  const float* by_dot;
  const float* by_item;
  bool compact;  // out has a row per group, else one per item
  float* out;    // the rows of items that are no candidates are left as they are
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
void states_gradient(const StatesGradientArgs& args, std::int64_t begin, std::int64_t end);
// begin, end: groups.
void table_gradient(const TableGradientArgs& args, std::int64_t begin, std::int64_t end);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
