// Products of matrices small enough to stay in the cache, as of a batch's tokens with a layer's.
//
// Every element is one sum in the order of the inner index, whatever the shapes. Where the
// instruction set has fused multiply-adds they are used, twice as fast, so that sums are rounded
// otherwise than on the baseline, as products of a BLAS would be.
#pragma once

#include <cstdint>
#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#endif

#include "lanes.hpp"

namespace pdrec::PDREC_ISA {
namespace {

struct LeftMatrix {
  const float* data;
  std::int64_t row, column;  // strides
};

struct RowMatrix {
  const float* data;
  std::int64_t row;  // stride; columns are adjacent
};

inline Vector multiply_add(const Vector& a, const Vector& b, const Vector& sum) {
#if defined(__AVX512F__)
  return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__AVX2__) && defined(__FMA__)
  return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
  return sum + a * b;
#endif
}

inline float multiply_add(float a, float b, float sum) {
#if defined(__AVX512F__) || defined(__FMA__)
  return __builtin_fmaf(a, b, sum);
#else
  return sum + a * b;
#endif
}

// Tiles of sums that the registers hold.
#if defined(__AVX512F__)
constexpr int kTileRows = 6, kTileVectors = 4;
#else
constexpr int kTileRows = 4, kTileVectors = 2;
#endif

// Of a sum: zero, an element of `start`, or that of c; or zero, and c is added at the end, which
// keeps more digits where c is a longer sum.
enum class Start { kZero, kRow, kSum, kAddLast };

struct LayerProduct {
  LeftMatrix a;  // [m, depth]
  RowMatrix b;   // [depth, n]
  float* c;      // [m, n] = start + a b
  std::int64_t c_row;
  std::int64_t m, n, depth;
  Start from;
  const float* start;  // [n], for kRow
};

inline float start_of(const LayerProduct& p, std::int64_t i, std::int64_t j) {
  if (p.from == Start::kZero || p.from == Start::kAddLast) return 0.0f;
  return p.from == Start::kRow ? p.start[j] : p.c[i * p.c_row + j];
}

template <int kRows, int kColumns>
inline void product_tile(const LayerProduct& p, std::int64_t i, std::int64_t j) {
  Vector sum[kRows][kColumns];
  for (int r = 0; r < kRows; ++r) {
    for (int s = 0; s < kColumns; ++s) {
      const std::int64_t column = j + s * kVector;
      sum[r][s] = p.from == Start::kRow   ? load(p.start + column)
                  : p.from == Start::kSum ? load(p.c + (i + r) * p.c_row + column)
                                          : Vector{};
    }
  }
  const float* a = p.a.data + i * p.a.row;
  const float* b = p.b.data + j;
  for (std::int64_t k = 0; k < p.depth; ++k, a += p.a.column, b += p.b.row) {
    Vector right[kColumns];
    for (int s = 0; s < kColumns; ++s) right[s] = load(b + s * kVector);
    for (int r = 0; r < kRows; ++r) {
      const Vector left = broadcast(a[r * p.a.row]);
      for (int s = 0; s < kColumns; ++s) sum[r][s] = multiply_add(left, right[s], sum[r][s]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int s = 0; s < kColumns; ++s) {
      float* const c = p.c + (i + r) * p.c_row + j + s * kVector;
      store(p.from == Start::kAddLast ? load(c) + sum[r][s] : sum[r][s], c);
    }
  }
}

template <int kRows>
inline void product_rows(const LayerProduct& p, std::int64_t i) {
  std::int64_t j = 0;
  for (; j + kTileVectors * kVector <= p.n; j += kTileVectors * kVector) {
    product_tile<kRows, kTileVectors>(p, i, j);
  }
  for (; j + kVector <= p.n; j += kVector) product_tile<kRows, 1>(p, i, j);
  for (; j < p.n; ++j) {
    for (std::int64_t r = i; r < i + kRows; ++r) {
      float sum = start_of(p, r, j);
      for (std::int64_t k = 0; k < p.depth; ++k) {
        sum = multiply_add(p.a.data[r * p.a.row + k * p.a.column], p.b.data[k * p.b.row + j],
                           sum);
      }
      p.c[r * p.c_row + j] = p.from == Start::kAddLast ? p.c[r * p.c_row + j] + sum : sum;
    }
  }
}

inline void product(const LayerProduct& p) {
  std::int64_t i = 0;
  for (; i + kTileRows <= p.m; i += kTileRows) product_rows<kTileRows>(p, i);
  for (; i + 4 <= p.m; i += 4) product_rows<4>(p, i);
  for (; i + 2 <= p.m; i += 2) product_rows<2>(p, i);
  for (; i < p.m; ++i) product_rows<1>(p, i);
}

// tokens [n, in] -> c [n, out] = bias + tokens matrix, matrix [in, out] or its transpose's rows.
inline void layer(const float* tokens, std::int64_t token, std::int64_t n, const float* matrix,
                  std::int64_t in, std::int64_t out, const float* bias, float* c,
                  std::int64_t c_row) {
  product({{tokens, token, 1}, {matrix, out}, c, c_row, n, out, in,
           bias ? Start::kRow : Start::kZero, bias});
}

// gradient [out, in] += grad' tokens, of grad [n, out] and tokens [n, in].
inline void layer_gradient(const float* grad, std::int64_t grad_row, const float* tokens,
                           std::int64_t n, std::int64_t out, std::int64_t in, float* gradient) {
  product({{grad, 1, grad_row}, {tokens, in}, gradient, in, out, in, n, Start::kSum, nullptr});
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
