// Gradients of a table's rows, grouped by row: what is summed, and where it goes.
#pragma once

#include <cstdint>

namespace pdrec {

// Without `rows` (nullptr), group g is row g and has one gradient, the g-th.
struct RowGradients {
  std::int64_t n_groups;
  std::int64_t width;
  const std::int32_t* rows;    // [n_groups]
  const std::int64_t* starts;  // [n_groups + 1], into order
  const std::int32_t* order;   // of the gradients
  const float* gradients;      // [n, width]
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
namespace {

inline std::int64_t row_of(const RowGradients& all, std::int64_t group) {
  return all.rows ? all.rows[group] : group;
}

// out = the sum of the group's gradients, in their order, from 0.
inline void sum_group(const RowGradients& all, std::int64_t group, float* __restrict out) {
  for (std::int64_t i = 0; i < all.width; ++i) out[i] = 0.0f;
  for (std::int64_t k = all.starts[group]; k < all.starts[group + 1]; ++k) {
    const float* __restrict gradient = all.gradients + std::int64_t{all.order[k]} * all.width;
    for (std::int64_t i = 0; i < all.width; ++i) out[i] += gradient[i];
  }
}

}  // namespace
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
