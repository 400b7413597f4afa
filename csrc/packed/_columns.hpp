// Rows of any width in groups of 16 columns, so that sums over a row do not depend on the
// instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "lanes.hpp"

namespace pdrec::PDREC_ISA {
namespace {

// 16 neighbouring columns of a token. Beyond the width they read as 0 and are not written.
struct Columns {
  Vector part[kParts];
};

inline Columns load_columns(const float* from, std::int64_t left) {
  Columns columns = {};
  if (left >= kPartialSums) {
    for (int i = 0; i < kParts; ++i) columns.part[i] = load(from + i * kVector);
  } else {
    std::memcpy(&columns, from, 4 * static_cast<std::size_t>(left));
  }
  return columns;
}

inline void store_columns(const Columns& columns, float* to, std::int64_t left) {
  if (left >= kPartialSums) {
    for (int i = 0; i < kParts; ++i) store(columns.part[i], to + i * kVector);
  } else {
    std::memcpy(to, &columns, 4 * static_cast<std::size_t>(left));
  }
}

inline Columns operator+(const Columns& a, const Columns& b) {
  Columns sum;
  for (int i = 0; i < kParts; ++i) sum.part[i] = a.part[i] + b.part[i];
  return sum;
}

inline Columns operator-(const Columns& a, const Columns& b) {
  Columns difference;
  for (int i = 0; i < kParts; ++i) difference.part[i] = a.part[i] - b.part[i];
  return difference;
}

inline Columns operator*(const Columns& a, const Columns& b) {
  Columns product;
  for (int i = 0; i < kParts; ++i) product.part[i] = a.part[i] * b.part[i];
  return product;
}

inline Columns operator-(const Columns& a, float b) {
  Columns difference;
  for (int i = 0; i < kParts; ++i) difference.part[i] = a.part[i] - b;
  return difference;
}

inline Columns operator*(const Columns& a, float b) {
  Columns product;
  for (int i = 0; i < kParts; ++i) product.part[i] = a.part[i] * b;
  return product;
}

// to[0 .. left) += columns.
inline void add_columns(const Columns& columns, float* to, std::int64_t left) {
  store_columns(load_columns(to, left) + columns, to, left);
}

// x - mean, but 0 beyond the width.
inline Columns centred(const float* x, std::int64_t left, float mean) {
  Columns columns = load_columns(x, left) - mean;
  if (left < kPartialSums) {
    std::memset(reinterpret_cast<float*>(&columns) + left, 0,
                4 * static_cast<std::size_t>(kPartialSums - left));
  }
  return columns;
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
