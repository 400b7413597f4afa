// What softmax losses do with the candidates of one state.
#pragma once

#include "candidates/_loss.hpp"
#include "candidates/_softplus.hpp"

#ifdef PDREC_ISA
namespace pdrec::PDREC_ISA {
namespace {

// A state's candidates. Until its derivatives are known, grad_dot holds the logits (-inf where a
// candidate is absent) and grad_item the squares of the items' norms.
struct Row {
  const std::int32_t* items;
  std::int64_t n_candidates;
  float* grad_dot;
  float* grad_item;
  float state_square;
};

inline int block_size(const Row& row, std::int64_t start) {
  const std::int64_t rest = row.n_candidates - start;
  return rest < kBlock ? static_cast<int>(rest) : kBlock;
}

inline bool has_negatives(const Row& row) {
  for (std::int64_t c = 1; c < row.n_candidates; ++c) {
    if (row.items[c] >= 0) return true;
  }
  return false;
}

inline void clear(const Row& row) {
  for (std::int64_t c = 0; c < row.n_candidates; ++c) row.grad_dot[c] = row.grad_item[c] = 0.0f;
}

template <bool kCosine>
inline void find_logits(const CandidateLoss& args, std::int64_t first, Row& row) {
  const auto present = [&](std::int64_t at) { return args.candidates.items[at] >= 0; };
  Products products;
  for (std::int64_t start = 0; start < row.n_candidates; start += kBlock) {
    const int n = block_size(row, start);
    block_products<kCosine>(args.candidates, first + start, n, present, products);
    for (int k = 0; k < n; ++k) {
      const float scale = logit_scale<kCosine>(
          args.similarity.temperature, products.state_squares[k], products.item_squares[k]);
      row.grad_dot[start + k] =
          select(row.items[start + k] >= 0, products.dots[k] * scale, -INFINITY);
      row.grad_item[start + k] = products.item_squares[k];
    }
    row.state_square = products.state_squares[0];
  }
}

inline float largest_negative(const Row& row) {
  float largest = -INFINITY;
  for (std::int64_t c = 1; c < row.n_candidates; ++c) {
    largest = select(row.grad_dot[c] > largest, row.grad_dot[c], largest);
  }
  return largest;
}

// sum_{c > 0} exp(logit_c - largest)
inline double sum_negatives(const Row& row, float largest) {
  double sum = 0.0;
  float decays[kBlock];
  for (std::int64_t start = 0; start < row.n_candidates; start += kBlock) {
    const int n = block_size(row, start);
    for (int k = 0; k < n; ++k) decays[k] = exp_of_minus(largest - row.grad_dot[start + k]);
    for (int k = start == 0; k < n; ++k) sum += decays[k];
  }
  return sum;
}

// -log softmax of the positive is the softplus of how far the negatives together exceed it: so a
// small loss keeps its digits. `sum` is that of exp(logit - largest) over the negatives.
inline void loss_of_row(float positive, float largest, double sum, float& loss, float& slope) {
  const float excess = (largest - positive) + static_cast<float>(std::log(sum));
  softplus(excess, loss, slope);
}

// Logits and squares into derivatives. The loss's derivative by the positive's logit is -slope, by
// a negative's slope / sum * exp(logit - largest). Returns the derivative by the state's square;
// `slopes_times_logits` is what negatives outside the row contribute to it.
template <bool kCosine>
inline float find_derivatives(const Row& row, float temperature, float slope, float largest,
                              double sum, double slopes_times_logits = 0.0) {
  const float share = static_cast<float>(slope / sum);
  float products[kBlock];
  for (std::int64_t start = 0; start < row.n_candidates; start += kBlock) {
    const int n = block_size(row, start);
    for (int k = 0; k < n; ++k) {
      const float logit = row.grad_dot[start + k];
      const float square = row.grad_item[start + k];
      const float grad_negative = share * exp_of_minus(largest - logit);
      const float grad_logit = select(start + k == 0, -slope, grad_negative);
      products[k] = select(row.items[start + k] >= 0, grad_logit * logit, 0.0f);
      row.grad_dot[start + k] =
          grad_logit * logit_scale<kCosine>(temperature, row.state_square, square);
      row.grad_item[start + k] = own_multiple<kCosine>(products[k], square);
    }
    for (int k = 0; k < n; ++k) slopes_times_logits += products[k];
  }
  return own_multiple<kCosine>(static_cast<float>(slopes_times_logits), row.state_square);
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
#endif
