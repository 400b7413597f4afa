// Products of matrices too small to block for the cache. Every element of the result is one sum in
// the order of the inner index, so it depends neither on the instruction set nor on the shapes.
#pragma once

#include <cstdint>

#include "products.hpp"

namespace pdrec::PDREC_ISA {
namespace {

struct Product {
  LeftMatrix a;          // [m, depth]
  RowMatrix b;           // [depth, n]
  float* c;              // [m, n], c += a b
  std::int64_t c_row;
  std::int64_t m, n, depth;
};

template <int kRows, int kColumns>
inline void add_tile(const Product& p, std::int64_t i, std::int64_t j) {
  Vector sum[kRows][kColumns];
  for (int r = 0; r < kRows; ++r) {
    for (int s = 0; s < kColumns; ++s) sum[r][s] = load(p.c + (i + r) * p.c_row + j + s * kVector);
  }
  const float* a = p.a.data + i * p.a.row;
  const float* b = p.b.data + j;
  for (std::int64_t k = 0; k < p.depth; ++k, a += p.a.column, b += p.b.row) {
    for (int s = 0; s < kColumns; ++s) {
      const Vector right = load(b + s * kVector);
      for (int r = 0; r < kRows; ++r) sum[r][s] += right * a[r * p.a.row];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int s = 0; s < kColumns; ++s) store(sum[r][s], p.c + (i + r) * p.c_row + j + s * kVector);
  }
}

template <int kRows>
inline void add_rows(const Product& p, std::int64_t i) {
  std::int64_t j = 0;
  for (; j + 4 * kVector <= p.n; j += 4 * kVector) add_tile<kRows, 4>(p, i, j);
  for (; j + kVector <= p.n; j += kVector) add_tile<kRows, 1>(p, i, j);
  for (; j < p.n; ++j) {
    for (std::int64_t r = i; r < i + kRows; ++r) {
      float sum = p.c[r * p.c_row + j];
      for (std::int64_t k = 0; k < p.depth; ++k) {
        sum += p.b.data[k * p.b.row + j] * p.a.data[r * p.a.row + k * p.a.column];
      }
      p.c[r * p.c_row + j] = sum;
    }
  }
}

inline void add_product(const Product& p) {
  std::int64_t i = 0;
  for (; i + 4 <= p.m; i += 4) add_rows<4>(p, i);
  for (; i < p.m; ++i) add_rows<1>(p, i);
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
