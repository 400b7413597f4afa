// Comparison of 64 consecutive floats with a bound, as a bit mask.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace pdrec::PDREC_ISA {
namespace {

struct BandMask {
  std::uint64_t at_least_low;
  std::uint64_t above_high;
};

#if defined(__AVX512F__)
constexpr int kStep = 16;
inline BandMask compare_step(const float* values, float low, float high) {
  const __m512 v = _mm512_loadu_ps(values);
  return {_mm512_cmp_ps_mask(v, _mm512_set1_ps(low), _CMP_GE_OQ),
          _mm512_cmp_ps_mask(v, _mm512_set1_ps(high), _CMP_GT_OQ)};
}
#elif defined(__AVX2__)
constexpr int kStep = 8;
inline BandMask compare_step(const float* values, float low, float high) {
  const __m256 v = _mm256_loadu_ps(values);
  const __m256 ge = _mm256_cmp_ps(v, _mm256_set1_ps(low), _CMP_GE_OQ);
  const __m256 gt = _mm256_cmp_ps(v, _mm256_set1_ps(high), _CMP_GT_OQ);
  return {static_cast<std::uint32_t>(_mm256_movemask_ps(ge)),
          static_cast<std::uint32_t>(_mm256_movemask_ps(gt))};
}
#elif defined(__SSE2__)
constexpr int kStep = 4;
inline BandMask compare_step(const float* values, float low, float high) {
  const __m128 v = _mm_loadu_ps(values);
  return {static_cast<std::uint32_t>(_mm_movemask_ps(_mm_cmpge_ps(v, _mm_set1_ps(low)))),
          static_cast<std::uint32_t>(_mm_movemask_ps(_mm_cmpgt_ps(v, _mm_set1_ps(high))))};
}
#else
constexpr int kStep = 1;
inline BandMask compare_step(const float* values, float low, float high) {
  return {static_cast<std::uint64_t>(*values >= low), static_cast<std::uint64_t>(*values > high)};
}
#endif

// Bit i is about values[i]; bits from n on are zero. A NaN is in no mask.
inline BandMask compare_band(const float* values, int n, float low, float high) {
  BandMask mask{0, 0};
  int i = 0;
  for (; i + kStep <= n; i += kStep) {
    const BandMask step = compare_step(values + i, low, high);
    mask.at_least_low |= step.at_least_low << i;
    mask.above_high |= step.above_high << i;
  }
  for (; i < n; ++i) {
    mask.at_least_low |= static_cast<std::uint64_t>(values[i] >= low) << i;
    mask.above_high |= static_cast<std::uint64_t>(values[i] > high) << i;
  }
  return mask;
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
