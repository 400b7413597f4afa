#include "fitting/adam_rows.hpp"

#include <cmath>

namespace pdrec::PDREC_ISA {
namespace {

constexpr std::int64_t kPrefetchAhead = 4;  // groups
constexpr std::int64_t kCacheLine = 16;     // floats

void prefetch_rows(const AdamRowsArgs& args, std::int64_t group) {
  if (group >= args.gradients.n_groups) return;
  const std::int64_t width = args.gradients.width;
  const std::int64_t first = row_of(args.gradients, group) * width;
  const std::int64_t n = width < 128 ? width : 128;  // the processor fetches more by itself
  for (std::int64_t i = first; i < first + n; i += kCacheLine) {
    __builtin_prefetch(args.table + i, 1);
    __builtin_prefetch(args.exp_avg + i, 1);
    __builtin_prefetch(args.exp_avg_sq + i, 1);
  }
}

bool all_zero(const float* values, std::int64_t n) {
  int found = 0;
  for (std::int64_t i = 0; i < n; ++i) found |= values[i] != 0.0f ? 1 : 0;
  return found == 0;
}

}  // namespace

void adam_rows(const AdamRowsArgs& args, std::int64_t begin, std::int64_t end, float* scratch) {
  const RowGradients& all = args.gradients;
  const AdamFactors by = args.factors;
  for (std::int64_t group = begin; group < end; ++group) {
    prefetch_rows(args, group + kPrefetchAhead);
    const float* gradient = all.gradients + group * all.width;
    if (all.rows) {
      sum_group(all, group, scratch);
      gradient = scratch;
    }
    if (all_zero(gradient, all.width)) continue;
    const std::int64_t row = row_of(all, group) * all.width;
    float* __restrict weight = args.table + row;
    float* __restrict first = args.exp_avg + row;
    float* __restrict second = args.exp_avg_sq + row;
    for (std::int64_t i = 0; i < all.width; ++i) {
      const float g = gradient[i];
      const float m = first[i] + (g - first[i]) * by.new_first;
      const float v = second[i] * by.old_second + g * g * by.new_second;
      first[i] = m;
      second[i] = v;
      weight[i] = weight[i] * by.kept - by.rate * (m / (std::sqrt(v) * by.root_scale + by.eps));
    }
  }
}

}  // namespace pdrec::PDREC_ISA
