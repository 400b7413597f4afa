// Floats as bit patterns, for loops that must vectorise.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef PDREC_ISA
namespace pdrec::PDREC_ISA {
namespace {

inline float bits_to_float(std::int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline std::int32_t float_to_bits(float value) {
  std::int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// condition ? yes : no, without a branch: compilers leave loops with branches unvectorised.
inline float select(bool condition, float yes, float no) {
  const std::int32_t mask = -static_cast<std::int32_t>(condition);
  return bits_to_float((float_to_bits(yes) & mask) | (float_to_bits(no) & ~mask));
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
#endif
