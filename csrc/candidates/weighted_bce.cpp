#include "candidates/weighted_bce.hpp"

#include "candidates/_softplus.hpp"

namespace pdrec::PDREC_ISA {
namespace {

// Per candidate of a block.
struct Losses {
  float losses[kBlock];
  float slopes_times_logits[kBlock];
};

// Losses and derivatives of the candidates at [start, start + n).
template <bool kCosine>
void block_losses(const WeightedBceArgs& args, std::int64_t start, int n, const Products& products,
                  Losses& out) {
  const Candidates& all = args.candidates;
  float signs[kBlock];
  std::int64_t column = start % all.n_candidates;
  for (int k = 0; k < n; ++k, ++column) {
    if (column == all.n_candidates) column = 0;
    signs[k] = column < args.n_positives ? -1.0f : 1.0f;
  }
  const std::int32_t* items = all.items + start;
  const float* weights = args.weights + start;
  const float temperature = args.similarity.temperature;
  float* grad_dot = args.grad_dot + start;
  float* grad_item = args.grad_item + start;
  for (int k = 0; k < n; ++k) {
    const float weight = select(items[k] >= 0, weights[k], 0.0f);
    const float scale = logit_scale<kCosine>(temperature, products.state_squares[k],
                                             products.item_squares[k]);
    const float logit = products.dots[k] * scale;
    float loss, slope;
    softplus(signs[k] * logit, loss, slope);
    const float grad_logit = signs[k] * (weight * slope);
    const float product = grad_logit * logit;
    out.losses[k] = weight * loss;
    out.slopes_times_logits[k] = product;
    grad_dot[k] = grad_logit * scale;
    grad_item[k] = own_multiple<kCosine>(product, products.item_squares[k]);
  }
}

template <bool kCosine>
void losses_of_rows(const WeightedBceArgs& args, std::int64_t begin, std::int64_t end) {
  const Candidates& all = args.candidates;
  const auto wanted = [&](std::int64_t at) {
    return all.items[at] >= 0 && args.weights[at] != 0.0f;
  };
  for (std::int64_t row = begin; row < end; ++row) args.losses[row] = args.grad_state[row] = 0.0f;
  const std::int64_t stop = end * all.n_candidates;
  std::int64_t row = begin, column = 0;
  double slope_times_logit = 0.0;
  Products products;
  Losses losses;
  for (std::int64_t start = begin * all.n_candidates; start < stop; start += kBlock) {
    const int n = stop - start < kBlock ? static_cast<int>(stop - start) : kBlock;
    block_products<kCosine>(all, start, n, wanted, products);
    block_losses<kCosine>(args, start, n, products, losses);
    for (int k = 0; k < n; ++k) {
      args.losses[row] += losses.losses[k];
      slope_times_logit += losses.slopes_times_logits[k];
      if (++column < all.n_candidates) continue;
      args.grad_state[row++] = own_multiple<kCosine>(static_cast<float>(slope_times_logit),
                                                   products.state_squares[k]);
      column = 0;
      slope_times_logit = 0.0;
    }
  }
}

}  // namespace

void weighted_bce(const WeightedBceArgs& args, std::int64_t begin, std::int64_t end) {
  for_similarity(args.similarity, [&](auto cosine) {
    losses_of_rows<decltype(cosine)::value>(args, begin, end);
  });
}

}  // namespace pdrec::PDREC_ISA
