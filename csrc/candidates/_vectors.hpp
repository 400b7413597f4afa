// The products of a state with the rows of its candidate items, and sums of such rows. Sums run in
// 16 lanes whatever the instruction set, so that it decides no bit.
#pragma once

#include <cstdint>

#include "float_bits.hpp"

#ifdef PDREC_ISA
#include <cmath>
#include <cstring>
#endif

namespace pdrec {

struct Candidates {
  const float* states;        // [n_rows, width]
  const float* table;         // [n_items, width]
  const std::int32_t* items;  // [n_rows, n_candidates]; -1: absent
  std::int64_t n_rows;
  std::int64_t n_candidates;
  std::int64_t width;
};

struct Similarity {
  bool cosine;
  float temperature;  // of the cosine; the dot product does not use it
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
namespace {

constexpr int kBlock = 64;          // candidates at a time
constexpr int kPrefetchAhead = 16;  // candidates
constexpr float kNormEps = 1e-12f;  // of torch.nn.functional.normalize

// A vector wider than the registers would be kept in memory.
#if defined(__AVX512F__)
constexpr int kRegister = 16;
#elif defined(__AVX__)
constexpr int kRegister = 8;
#else
constexpr int kRegister = 4;
#endif
constexpr int kSumLanes = 16;
constexpr int kRegisters = kSumLanes / kRegister;
typedef float Register __attribute__((vector_size(4 * kRegister)));
typedef float InMemory __attribute__((vector_size(4 * kRegister), aligned(4), may_alias));
typedef float Quarter __attribute__((vector_size(16)));

struct Lanes {
  Register parts[kRegisters];
};

inline void load(const float* from, Lanes& into) {
  for (int p = 0; p < kRegisters; ++p) {
    into.parts[p] = *reinterpret_cast<const InMemory*>(from + p * kRegister);
  }
}

// The last `n` < 16 floats of a row, and zeros.
inline void load(const float* from, std::int64_t n, Lanes& into) {
  float lanes[kSumLanes] = {};
  std::memcpy(lanes, from, static_cast<std::size_t>(n) * sizeof *from);
  load(lanes, into);
}

inline void store(const Lanes& from, float* into) {
  for (int p = 0; p < kRegisters; ++p) {
    *reinterpret_cast<InMemory*>(into + p * kRegister) = from.parts[p];
  }
}

// sum += a * b
inline void multiply_add(const Lanes& a, const Lanes& b, Lanes& sum) {
  for (int p = 0; p < kRegisters; ++p) sum.parts[p] += a.parts[p] * b.parts[p];
}

inline float sum(const Lanes& values) {
  Quarter quarters[4];
  std::memcpy(quarters, &values, sizeof quarters);
  const Quarter total = (quarters[0] + quarters[2]) + (quarters[1] + quarters[3]);
  return (total[0] + total[2]) + (total[1] + total[3]);
}

inline float dot(const float* a, const float* b, std::int64_t width) {
  Lanes sums{}, x, y;
  std::int64_t i = 0;
  for (; i + kSumLanes <= width; i += kSumLanes) {
    load(a + i, x);
    load(b + i, y);
    multiply_add(x, y, sums);
  }
  if (i < width) {
    load(a + i, width - i, x);
    load(b + i, width - i, y);
    multiply_add(x, y, sums);
  }
  return sum(sums);
}

// dot(a, b) and dot(b, b), reading b once.
inline void dot_and_square(const float* a, const float* b, std::int64_t width, float& ab,
                           float& bb) {
  Lanes sums{}, squares{}, x, y;
  std::int64_t i = 0;
  for (; i + kSumLanes <= width; i += kSumLanes) {
    load(a + i, x);
    load(b + i, y);
    multiply_add(x, y, sums);
    multiply_add(y, y, squares);
  }
  if (i < width) {
    load(a + i, width - i, x);
    load(b + i, width - i, y);
    multiply_add(x, y, sums);
    multiply_add(y, y, squares);
  }
  ab = sum(sums);
  bb = sum(squares);
}

// The start of a row; the processor fetches the rest of a long one by itself.
inline void prefetch_row(const float* row, std::int64_t width) {
  const std::int64_t n = width < 64 ? width : 64;
  for (std::int64_t i = 0; i < n; i += 16) __builtin_prefetch(row + i);
}

inline void prefetch_candidate(const Candidates& all, std::int64_t at) {
  if (at >= all.n_rows * all.n_candidates || all.items[at] < 0) return;
  prefetch_row(all.table + all.items[at] * all.width, all.width);
}

// Products of up to kBlock candidates that follow each other, of one row or of several.
struct Products {
  float dots[kBlock];
  float state_squares[kBlock];
  float item_squares[kBlock];
};

// Of the candidates at [start, start + n); 0 where `wanted` is false, and then the item is not
// read. Squares are those of the vectors' norms, for cosines only.
template <bool kCosine, class Wanted>
inline void block_products(const Candidates& all, std::int64_t start, int n, const Wanted& wanted,
                           Products& out) {
  std::int64_t row = start / all.n_candidates;
  std::int64_t column = start % all.n_candidates;
  const float* state = all.states + row * all.width;
  float state_square = kCosine ? dot(state, state, all.width) : 0.0f;
  for (int k = 0; k < n; ++k, ++column) {
    if (column == all.n_candidates) {
      column = 0;
      state += all.width;
      if (kCosine) state_square = dot(state, state, all.width);
    }
    prefetch_candidate(all, start + k + kPrefetchAhead);
    out.dots[k] = out.item_squares[k] = 0.0f;
    out.state_squares[k] = state_square;
    if (!wanted(start + k)) continue;
    const float* item = all.table + all.items[start + k] * all.width;
    if (kCosine) {
      dot_and_square(state, item, all.width, out.dots[k], out.item_squares[k]);
    } else {
      out.dots[k] = dot(state, item, all.width);
    }
  }
}

inline float norm_at_least_eps(float square) {
  const float norm = std::sqrt(square);
  return norm < kNormEps ? kNormEps : norm;
}

template <bool kCosine>
struct Cosine {
  static constexpr bool value = kCosine;
};

// Calls function(Cosine<true or false>), as the similarity says.
template <class Function>
inline void for_similarity(const Similarity& similarity, const Function& function) {
  if (similarity.cosine) {
    function(Cosine<true>{});
  } else {
    function(Cosine<false>{});
  }
}

// What to multiply a dot product with to make it a logit.
template <bool kCosine>
inline float logit_scale(float temperature, float state_square, float item_square) {
  if (!kCosine) return 1.0f;
  return temperature / (norm_at_least_eps(state_square) * norm_at_least_eps(item_square));
}

// The multiple of its own vector in the gradient of a vector that cosines normalise; `product` is
// the sum of its logits times their derivatives. A norm below eps counts as constant.
template <bool kCosine>
inline float own_multiple(float product, float square) {
  const bool varies = kCosine && !(std::sqrt(square) < kNormEps);
  return select(varies, -product / square, 0.0f);
}

// out += sum_k coefficients[k] rows[k], in the order of k.
inline void add_rows(int n, const float* coefficients, const float* const* rows,
                     std::int64_t width, float* out) {
  constexpr int kColumns = 4;  // of lanes, few enough to stay in registers
  std::int64_t i = 0;
  for (; i + kColumns * kSumLanes <= width; i += kColumns * kSumLanes) {
    Lanes sums[kColumns], x;
    for (int j = 0; j < kColumns; ++j) load(out + i + j * kSumLanes, sums[j]);
    for (int k = 0; k < n; ++k) {
      for (int j = 0; j < kColumns; ++j) {
        load(rows[k] + i + j * kSumLanes, x);
        for (int p = 0; p < kRegisters; ++p) sums[j].parts[p] += coefficients[k] * x.parts[p];
      }
    }
    for (int j = 0; j < kColumns; ++j) store(sums[j], out + i + j * kSumLanes);
  }
  for (int k = 0; k < n && i < width; ++k) {
    for (std::int64_t j = i; j < width; ++j) out[j] += coefficients[k] * rows[k][j];
  }
}

}  // namespace
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
