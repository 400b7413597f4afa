#include "candidates/sampled_softmax.hpp"

#include "candidates/_softplus.hpp"

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

int block_size(const Row& row, std::int64_t start) {
  const std::int64_t rest = row.n_candidates - start;
  return rest < kBlock ? static_cast<int>(rest) : kBlock;
}

bool has_negatives(const Row& row) {
  for (std::int64_t c = 1; c < row.n_candidates; ++c) {
    if (row.items[c] >= 0) return true;
  }
  return false;
}

void clear(const Row& row) {
  for (std::int64_t c = 0; c < row.n_candidates; ++c) row.grad_dot[c] = row.grad_item[c] = 0.0f;
}

template <bool kCosine>
void find_logits(const CandidateLoss& args, std::int64_t first, Row& row) {
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

float largest_negative(const Row& row) {
  float largest = -INFINITY;
  for (std::int64_t c = 1; c < row.n_candidates; ++c) {
    largest = select(row.grad_dot[c] > largest, row.grad_dot[c], largest);
  }
  return largest;
}

// sum_{c > 0} exp(logit_c - largest)
double sum_grad_negatives(const Row& row, float largest) {
  double sum = 0.0;
  float decays[kBlock];
  for (std::int64_t start = 0; start < row.n_candidates; start += kBlock) {
    const int n = block_size(row, start);
    for (int k = 0; k < n; ++k) decays[k] = exp_of_minus(largest - row.grad_dot[start + k]);
    for (int k = start == 0; k < n; ++k) sum += decays[k];
  }
  return sum;
}

// Logits and squares into derivatives. The loss's derivative by the positive's logit is -slope, by
// a negative's slope / sum * exp(logit - largest). Returns the derivative by the state's square.
template <bool kCosine>
float find_derivatives(const Row& row, float temperature, float slope, float largest,
                       double sum) {
  const float share = static_cast<float>(slope / sum);
  double slopes_times_logits = 0.0;
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

template <bool kCosine>
void losses_of_rows(const CandidateLoss& args, std::int64_t begin, std::int64_t end) {
  const Candidates& all = args.candidates;
  for (std::int64_t t = begin; t < end; ++t) {
    const std::int64_t first = t * all.n_candidates;
    const float weight = args.weights[t];
    Row row{all.items + first, all.n_candidates, args.grad_dot + first, args.grad_item + first, 0.0f};
    args.losses[t] = args.grad_state[t] = 0.0f;
    if (row.items[0] < 0 || weight == 0.0f || !has_negatives(row)) {
      clear(row);
      continue;
    }
    find_logits<kCosine>(args, first, row);
    // -log softmax of the positive is the softplus of how far the negatives together exceed it:
    // so a small loss keeps its digits.
    const float largest = largest_negative(row);
    const double sum = sum_grad_negatives(row, largest);
    const float excess = (largest - row.grad_dot[0]) + static_cast<float>(std::log(sum));
    float loss, slope;
    softplus(excess, loss, slope);
    args.losses[t] = weight * loss;
    args.grad_state[t] = find_derivatives<kCosine>(row, args.similarity.temperature, weight * slope,
                                                 largest, sum);
  }
}

}  // namespace

void sampled_softmax(const CandidateLoss& args, std::int64_t begin, std::int64_t end) {
  for_similarity(args.similarity, [&](auto cosine) {
    losses_of_rows<decltype(cosine)::value>(args, begin, end);
  });
}

}  // namespace pdrec::PDREC_ISA
