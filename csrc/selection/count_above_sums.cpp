#include "selection/count_above_sums.hpp"

namespace pdrec::PDREC_ISA {

// Both rows stay in the cache from one weight to the next, so that memory is read once.
void count_above_sums(const CountAboveSumsArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* logits = args.logits + row * args.n_items;
    const float* scores = args.scores + row * args.n_items;
    for (std::int64_t k = 0; k < args.n_weights; ++k) {
      const float weight = args.weights[k];
      const float bound = args.logit_bounds[row] + weight * args.score_bounds[row];
      std::int32_t greater = 0, equal = 0, nans = 0;
      for (std::int32_t i = 0; i < args.n_items; ++i) {
        const float sum = logits[i] + weight * scores[i];
        greater += sum > bound;
        equal += sum == bound;
        nans += sum != sum;
      }
      const std::int64_t at = row * args.n_weights + k;
      args.greater[at] = greater;
      args.equal[at] = equal;
      args.nans[at] = nans;
    }
  }
}

}  // namespace pdrec::PDREC_ISA
