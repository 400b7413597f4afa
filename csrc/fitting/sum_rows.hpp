// Gradients of a table's rows, summed into a dense one.
#pragma once

#include "fitting/_row_groups.hpp"

namespace pdrec {

struct SumRowsArgs {
  RowGradients gradients;
  float* out;  // [n_rows, width]; rows without a group are left as they are
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
// begin, end: groups.
void sum_rows(const SumRowsArgs& args, std::int64_t begin, std::int64_t end);
}
#endif

}  // namespace pdrec
