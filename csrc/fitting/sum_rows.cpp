#include "fitting/sum_rows.hpp"

namespace pdrec::PDREC_ISA {

void sum_rows(const SumRowsArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t group = begin; group < end; ++group) {
    sum_group(args.gradients, group,
              args.out + row_of(args.gradients, group) * args.gradients.width);
  }
}

}  // namespace pdrec::PDREC_ISA
