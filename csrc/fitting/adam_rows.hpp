// A step of Adam for the rows of a table that have a gradient.
#pragma once

#include "fitting/_row_groups.hpp"

namespace pdrec {

// What a step needs of Adam's settings and of the number of steps.
struct AdamFactors {
  float kept;        // of a weight after decay: 1 - lr * weight_decay
  float new_first;   // 1 - beta1
  float old_second;  // beta2
  float new_second;  // 1 - beta2
  float root_scale;  // 1 / sqrt(1 - beta2^step)
  float eps;
  float rate;  // lr / (1 - beta1^step)
};

struct AdamRowsArgs {
  RowGradients gradients;
  AdamFactors factors;
  float* table;       // [n_rows, width]
  float* exp_avg;     // the shape of table
  float* exp_avg_sq;  // the shape of table
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
// begin, end: groups. scratch: [width].
void adam_rows(const AdamRowsArgs& args, std::int64_t begin, std::int64_t end, float* scratch);
}
#endif

}  // namespace pdrec
