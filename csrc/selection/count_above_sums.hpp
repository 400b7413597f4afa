// How many sums of two arrays' rows, the second one weighted, lie above the sum of two bounds.
#pragma once

#include <cstdint>

namespace pdrec {

struct CountAboveSumsArgs {
  const float* logits;  // [n_rows, n_items]
  const float* scores;  // [n_rows, n_items]
  std::int64_t n_rows;
  std::int32_t n_items;
  const float* weights;  // [n_weights]
  std::int64_t n_weights;
  const float* logit_bounds;  // [n_rows]
  const float* score_bounds;  // [n_rows]
  std::int64_t* greater;      // [n_rows, n_weights]
  std::int64_t* equal;        // [n_rows, n_weights]
  std::int64_t* nans;         // [n_rows, n_weights], sums that are NaN
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
void count_above_sums(const CountAboveSumsArgs& args, std::int64_t begin, std::int64_t end);
}
#endif

}  // namespace pdrec
