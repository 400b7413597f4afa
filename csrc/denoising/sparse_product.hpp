// Dense rows of the product of two sparse matrices.
#pragma once

#include <cstdint>

namespace pdrec {

struct SparseProductArgs {
  std::int64_t n_rows;
  const std::int64_t* indptr;  // [n_rows + 1]
  const std::int32_t* items;   // rows of the matrix, repetitions allowed
  const float* values;
  const std::int64_t* matrix_indptr;  // of the matrix's rows
  const std::int32_t* matrix_columns;
  const float* matrix_values;
  std::int64_t n_columns;
  float* out;         // [n_rows, n_columns], zeros
  std::uint8_t* bad;  // [n_rows], 1 where a column is outside the matrix
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
void sparse_product(const SparseProductArgs& args, std::int64_t begin, std::int64_t end);
}
#endif

}  // namespace pdrec
