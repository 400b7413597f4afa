// Gradients of a loss of candidates' logits.
//
// A logit is a function of state . item, |state|^2 and |item|^2, so a gradient needs per candidate
// the loss's derivative by the dot product, and for cosines the factors of the own vector that the
// derivatives by the squared norms contribute:
//   grad_states_t = sum_c grad_dot_tc item_c + grad_state_t state_t
//   grad_table_j = sum_{tc: item_tc = j} (grad_dot_tc state_t + grad_item_tc item_j)
#pragma once

#include "candidates/_vectors.hpp"

namespace pdrec {

struct StatesGradientArgs {
  Candidates candidates;
  float grad_loss;  // of whatever is differentiated, by the loss
  const float* grad_dot;
  const float* grad_state;
  float* out;  // [n_rows, width]
};

// Candidates grouped by item.
struct TableGradientArgs {
  Candidates candidates;
  std::int64_t n_groups;
  const std::int32_t* group_items;   // [n_groups]
  const std::int64_t* group_starts;  // [n_groups + 1]
  const std::int32_t* order;         // positions in [n_rows, n_candidates]
  float grad_loss;
  const float* grad_dot;
  const float* grad_item;
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
