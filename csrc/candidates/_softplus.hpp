// Exponentials and logarithms of losses, for loops that must vectorise.
#pragma once

#include "float_bits.hpp"

#ifdef PDREC_ISA
#include <cmath>

namespace pdrec::PDREC_ISA {
namespace {

// exp(-x) for x >= 0, NaN for NaN; 0 from 87 on, where it nears the smallest normal float.
inline float exp_of_minus(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float bounded = select(x > 87.0f, 87.0f, x);
  const float shifted = bounded * -1.44269504f + kRound;
  const float n = shifted - kRound;
  // ln 2 in two parts, the first short enough for n times it to be exact.
  const float r = (-bounded - n * 0.693359375f) - n * -2.12194440e-4f;
  float q = 0.00138145f;
  q = q * r + 0.00836875f;
  q = q * r + 0.04166839f;
  q = q * r + 0.16666521f;
  q = q * r + 0.49999994f;
  const float mantissa = 1.0f + (r + r * r * q);
  const std::int32_t exponent = float_to_bits(shifted) - float_to_bits(kRound) + 127;
  const auto power = static_cast<std::int32_t>(static_cast<std::uint32_t>(exponent) << 23);
  return select(x > 87.0f, 0.0f, mantissa * bits_to_float(power));
}

// ln(1 + x) for x in [0, 1], as 2 artanh(x / (2 + x)).
inline float log1p_of_fraction(float x) {
  const float s = x / (2.0f + x);
  const float z = s * s;
  float q = 0.14012232f;
  q = q * z + 0.1399957f;
  q = q * z + 0.2001085f;
  q = q * z + 0.33333206f;
  return 2.0f * (s + s * z * q);
}

// loss = softplus(x); slope = its derivative, the logistic function of x.
inline void softplus(float x, float& loss, float& slope) {
  const float decay = exp_of_minus(std::fabs(x));
  loss = select(x < 0.0f, 0.0f, x) + log1p_of_fraction(decay);
  slope = select(x < 0.0f, decay, 1.0f) / (1.0f + decay);
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
#endif
