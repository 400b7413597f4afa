#include "selection/count_above.hpp"

namespace pdrec::PDREC_ISA {

void count_above(const CountAboveArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* scores = args.scores + row * args.row_stride;
    const float bound = args.bounds[row];
    std::int32_t greater = 0, equal = 0, nans = 0;
    for (std::int32_t i = 0; i < args.n_items; ++i) {
      greater += scores[i] > bound;
      equal += scores[i] == bound;
      nans += scores[i] != scores[i];
    }
    args.greater[row] = greater;
    args.equal[row] = equal;
    args.nans[row] = nans;
  }
}

}  // namespace pdrec::PDREC_ISA
