// Softmax of one query's scores, in rows padded to whole groups of partial sums.
#pragma once

#include <cstdint>

#include "lanes.hpp"

namespace pdrec::PDREC_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();

inline void fill(float* row, std::int64_t begin, std::int64_t end, float value) {
  for (std::int64_t j = begin; j < end; ++j) row[j] = value;
}

inline float largest(const float* scores, std::int64_t n_lanes) {
  Vector lanes = load(scores);
  for (std::int64_t j = kVector; j < n_lanes; j += kVector) {
    const Vector score = load(scores + j);
    lanes = score > lanes ? score : lanes;
  }
  float maximum = lanes[0];
  for (int lane = 1; lane < kVector; ++lane) {
    maximum = lanes[lane] > maximum ? lanes[lane] : maximum;
  }
  return maximum;
}

// scores -> exp(scale (score - maximum)); returns their sum.
inline float exponentials(float* scores, float maximum, float scale, std::int64_t n_lanes) {
  Vector sums[kParts] = {};
  for (std::int64_t j = 0; j < n_lanes; j += kPartialSums) {
    for (int part = 0; part < kParts; ++part) {
      float* at = scores + j + part * kVector;
      const Vector weight = exp_negative((load(at) - maximum) * scale);
      store(weight, at);
      sums[part] += weight;
    }
  }
  return total(sums);
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
