#include "denoising/sparse_product.hpp"

namespace pdrec::PDREC_ISA {

void sparse_product(const SparseProductArgs& args, std::int64_t begin, std::int64_t end) {
  const auto n_columns = static_cast<std::uint64_t>(args.n_columns);
  for (std::int64_t row = begin; row < end; ++row) {
    float* out = args.out + row * args.n_columns;
    bool bad = false;
    for (std::int64_t j = args.indptr[row]; j < args.indptr[row + 1]; ++j) {
      const std::int64_t item = args.items[j];
      const float value = args.values[j];
      for (std::int64_t k = args.matrix_indptr[item]; k < args.matrix_indptr[item + 1]; ++k) {
        const auto column = static_cast<std::uint32_t>(args.matrix_columns[k]);
        if (column < n_columns) {
          out[column] += value * args.matrix_values[k];
        } else {
          bad = true;
        }
      }
    }
    args.bad[row] = bad;
  }
}

}  // namespace pdrec::PDREC_ISA
