#include "packed/attention_pooling.hpp"

#include "packed/_columns.hpp"
#include "packed/_softmax.hpp"

namespace pdrec::PDREC_ISA {
namespace {

float dot_product(const float* a, const float* b, std::int64_t width) {
  Columns sums = {};
  for (std::int64_t j = 0; j < width; j += kPartialSums) {
    sums = sums + load_columns(a + j, width - j) * load_columns(b + j, width - j);
  }
  return total(sums.part);
}

// Of n tokens x [n, width] for one query.
void pool(const float* x, std::int64_t n, std::int64_t width, const float* query, float* weights,
          float* out) {
  const std::int64_t n_lanes = (n + kPartialSums - 1) / kPartialSums * kPartialSums;
  for (std::int64_t i = 0; i < n; ++i) weights[i] = dot_product(query, x + i * width, width);
  fill(weights, n, n_lanes, -kInfinity);
  const float inverse = 1.0f / exponentials(weights, largest(weights, n_lanes), 1.0f, n_lanes);
  for (std::int64_t j = 0; j < width; j += kPartialSums) {
    Columns sum = {};
    for (std::int64_t i = 0; i < n; ++i) {
      sum = sum + load_columns(x + i * width + j, width - j) * weights[i];
    }
    store_columns(sum * inverse, out + j, width - j);
  }
}

}  // namespace

void attention_pooling(const AttentionPoolingArgs& args, std::int64_t begin, std::int64_t end,
                       float* weights) {
  const std::int64_t d = args.width;
  for (std::int64_t b = begin; b < end; ++b) {
    const std::int64_t first = args.indptr[b], n = args.indptr[b + 1] - first;
    for (std::int64_t row = b * args.n_heads; row < (b + 1) * args.n_heads; ++row) {
      if (n == 0) {
        fill(args.out + row * d, 0, d, 0.0f);
      } else {
        pool(args.x + first * d, n, d, args.queries + row * d, weights, args.out + row * d);
      }
    }
  }
}

}  // namespace pdrec::PDREC_ISA
