// Comparison of 64 consecutive floats with two bounds, as bit masks.
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

// Writes base + i for every set bit i, ascending, and returns how many. Up to 16 entries
// after those may be overwritten (kPositionsSlack).

inline int write_positions(std::uint64_t mask, std::int32_t base, std::int32_t* positions) {
  int n = 0;
#if defined(__AVX512F__)
  __m512i lanes = _mm512_add_epi32(
      _mm512_set1_epi32(base),
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  for (int part = 0; part < 4; ++part) {
    const auto bits = static_cast<__mmask16>(mask >> (16 * part));
    _mm512_storeu_si512(positions + n, _mm512_maskz_compress_epi32(bits, lanes));
    n += __builtin_popcount(bits);
    lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(16));
  }
#else
  for (; mask; mask &= mask - 1) positions[n++] = base + __builtin_ctzll(mask);
#endif
  return n;
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
