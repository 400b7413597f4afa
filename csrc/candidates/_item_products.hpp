// Losses of states against the same items together with the products of matrices that they take, in
// float32. A few states go through all of it at a time, so that their block of logits is in the
// cache from its making to its last use:
//
//   logits = states items^T; in their place exponentials e, and a factor f for each state;
//   grad_states_t = f_t (e items)_t, grad_items = e^T (f states)
#pragma once

#include <cstdint>

#include "candidates/_logit_block.hpp"

#ifdef PDREC_ISA
#include "products.hpp"
#endif

namespace pdrec {

// Items whose vectors are a panel [width, kPanel], padded with zeros.
constexpr std::int64_t kPanel = 64;

struct ItemProducts {
  std::int64_t n_items, width;
  const float* states;  // [n_rows, width]
  const float* items;   // [n_items, width]
  const float* panels;  // the items', one after another
  float* grad_states;   // [n_rows, width]; or null
};

// Rows that one thread takes, so many at a time.
struct PartOfRows {
  std::int64_t begin, end, at_a_time;
  float* block;       // [at_a_time, row_of_block(n_items)], scratch
  float* scaled;      // [at_a_time, width], scratch
  float* grad_items;  // [n_items, width], of these rows alone; or null
};

// Of whole panels, and no multiple of a page, which would have a column in one set of the cache.
inline std::int64_t row_of_block(std::int64_t n_items) {
  return (n_items + kPanel - 1) / kPanel * kPanel + 16;
}

#ifdef PDREC_ISA
namespace PDREC_ISA {
namespace {

inline void make_logits(const ItemProducts& p, const LogitBlock& block, std::int64_t n) {
  float* const values = static_cast<float*>(block.values);
  const float* const states = p.states + block.first_row * p.width;
  for (std::int64_t i = 0; i < p.n_items; i += kPanel) {
    product({{states, p.width, 1}, {p.panels + i * p.width, kPanel}, values + i, block.row, n,
             kPanel, p.width, Start::kZero, nullptr});
  }
}

// out = factor * row; zeros where that is 0, whatever the row holds.
inline void scale_row(const float* row, float factor, std::int64_t width, float* out) {
  for (std::int64_t i = 0; i < width; ++i) out[i] = factor == 0.0f ? 0.0f : factor * row[i];
}

inline void add_gradients(const ItemProducts& p, const LogitBlock& block, std::int64_t n,
                          const float* factors, const PartOfRows& part) {
  constexpr std::int64_t kItems = 96;  // at a time
  const std::int64_t at = block.first_row * p.width, w = p.width;
  float* const grad_states = p.grad_states ? p.grad_states + at : nullptr;
  const Start sums = block.first_row == part.begin ? Start::kZero : Start::kAddLast;
  if (part.grad_items) {
    for (std::int64_t t = 0; t < n; ++t) {
      scale_row(p.states + at + t * w, factors[t], w, part.scaled + t * w);
    }
  }
  for (std::int64_t i = 0; i < p.n_items; i += kItems) {
    const float* const values = static_cast<const float*>(block.values) + i;
    const std::int64_t m = p.n_items - i < kItems ? p.n_items - i : kItems;
    if (grad_states) {
      product({{values, block.row, 1}, {p.items + i * w, w}, grad_states, w, n, w, m,
               i == 0 ? Start::kZero : Start::kAddLast, nullptr});
    }
    if (part.grad_items) {
      product({{values, 1, block.row}, {part.scaled, w}, part.grad_items + i * w, w, m, w, n,
               sums, nullptr});
    }
  }
  for (std::int64_t t = 0; grad_states && t < n; ++t) {
    float* const row = grad_states + t * w;
    for (std::int64_t i = 0; i < w; ++i) row[i] *= factors[t];
  }
}

// `losses(block, begin, end)` puts exponentials in the place of logits and gives the factors [n_rows].
template <class Losses>
inline void losses_with_products(const ItemProducts& p, const PartOfRows& part,
                                 const float* factors, const Losses& losses) {
  for (std::int64_t begin = part.begin; begin < part.end; begin += part.at_a_time) {
    const std::int64_t end =
        begin + part.at_a_time < part.end ? begin + part.at_a_time : part.end;
    const LogitBlock block{part.block, false, p.n_items, row_of_block(p.n_items), begin};
    make_logits(p, block, end - begin);
    losses(block, begin, end);
    if (p.grad_states || part.grad_items) {
      add_gradients(p, block, end - begin, factors + begin, part);
    }
  }
}

}  // namespace
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
