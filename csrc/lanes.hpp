// Vectors of floats with plain arithmetic: GCC's and Clang's vector types, as wide as the instruction
// set's registers. Sums over a row are kept in 16 partial sums whatever that width, so that they do
// not depend on it.
#pragma once

#include <cstdint>
#include <cstring>

namespace pdrec::PDREC_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVector = 16;
#elif defined(__AVX2__)
constexpr int kVector = 8;
#else
constexpr int kVector = 4;
#endif

typedef float Vector __attribute__((vector_size(4 * kVector)));
typedef std::int32_t IntVector __attribute__((vector_size(4 * kVector)));
typedef std::uint32_t WordVector __attribute__((vector_size(4 * kVector)));

constexpr int kPartialSums = 16;
constexpr int kParts = kPartialSums / kVector;

inline Vector load(const float* from) {
  Vector value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline WordVector load(const std::uint32_t* from) {
  WordVector value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline void store(const Vector& value, float* to) { std::memcpy(to, &value, sizeof value); }

inline Vector broadcast(float value) { return value - Vector{}; }

// The sum of 16 partial sums, by halves.
inline float total(const Vector (&parts)[kParts]) {
  float lane[kPartialSums];
  std::memcpy(lane, parts, sizeof lane);
  for (int half = kPartialSums / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

// exp(x) for x <= 0 within 1 ulp; 0 where it is below the smallest normal float, NaN of NaN.
inline Vector exp_negative(const Vector& x) {
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  const Vector shifted = x * 1.44269504f + kRounder;
  const Vector power = shifted - kRounder;
  const Vector r = x - power * 0.693359375f + power * 2.12194440e-4f;  // ln 2 in two parts
  Vector q = r * 0.0013814466f + 0.0083687808f;
  q = q * r + 0.0416683927f;
  q = q * r + 0.166665196f;
  q = q * r + 0.49999994f;
  const Vector fraction = r * r * q + r + 1.0f;
  // Of x far below the range this is any number; of unsigned ones, which may overflow.
  const Vector scale = (Vector)(((WordVector)shifted << 23) + 0x3f800000u);
  return x < -87.0f ? Vector{} : fraction * scale;
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
