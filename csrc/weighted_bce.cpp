#include "weighted_bce.hpp"

#include "float_bits.hpp"

namespace pdrec::PDREC_ISA {
namespace {

// exp(-x) for x >= 0, NaN for NaN; 0 from 87 on, where it nears the smallest normal float.
inline float exp_of_minus(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float bounded = select(x > 87.0f, 87.0f, x);
  const float shifted = bounded * -1.44269504f + kRound;
  const float n = shifted - kRound;
  // ln 2 in two parts, the first short enough for n times it to be exact.
  const float r = (-bounded - n * 0.693359375f) - n * -2.12194440e-4f;
  float q = 0.00138145f;
  q = q * r + 0.00836875f;
  q = q * r + 0.04166839f;
  q = q * r + 0.16666521f;
  q = q * r + 0.49999994f;
  const float mantissa = 1.0f + (r + r * r * q);
  const std::int32_t exponent = float_to_bits(shifted) - float_to_bits(kRound) + 127;
  const auto power = static_cast<std::int32_t>(static_cast<std::uint32_t>(exponent) << 23);
  return select(x > 87.0f, 0.0f, mantissa * bits_to_float(power));
}

// ln(1 + x) for x in [0, 1], as 2 artanh(x / (2 + x)).
inline float log1p_of_fraction(float x) {
  const float s = x / (2.0f + x);
  const float z = s * s;
  float q = 0.14012232f;
  q = q * z + 0.1399957f;
  q = q * z + 0.2001085f;
  q = q * z + 0.33333206f;
  return 2.0f * (s + s * z * q);
}

// loss = softplus(x); slope = its derivative, the logistic function of x.
inline void softplus(float x, float& loss, float& slope) {
  const float decay = exp_of_minus(std::fabs(x));
  loss = select(x < 0.0f, 0.0f, x) + log1p_of_fraction(decay);
  slope = select(x < 0.0f, decay, 1.0f) / (1.0f + decay);
}

// The multiple of its own vector in the gradient of a vector that cosines normalise; `product` is
// the sum of its logits times their derivatives. A norm below eps counts as constant.
template <bool kCosine>
inline float own_multiple(float product, float square) {
  const bool varies = kCosine && !(std::sqrt(square) < kNormEps);
  return select(varies, -product / square, 0.0f);
}

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
  float* by_dot = args.by_dot + start;
  float* by_item = args.by_item + start;
  for (int k = 0; k < n; ++k) {
    const float weight = select(items[k] >= 0, weights[k], 0.0f);
    const float scale = logit_scale<kCosine>(temperature, products.state_squares[k],
                                             products.item_squares[k]);
    const float logit = products.dots[k] * scale;
    float loss, slope;
    softplus(signs[k] * logit, loss, slope);
    const float by_logit = signs[k] * (weight * slope);
    const float product = by_logit * logit;
    out.losses[k] = weight * loss;
    out.slopes_times_logits[k] = product;
    by_dot[k] = by_logit * scale;
    by_item[k] = own_multiple<kCosine>(product, products.item_squares[k]);
  }
}

template <bool kCosine>
void losses_of_rows(const WeightedBceArgs& args, std::int64_t begin, std::int64_t end) {
  const Candidates& all = args.candidates;
  const auto wanted = [&](std::int64_t at) {
    return all.items[at] >= 0 && args.weights[at] != 0.0f;
  };
  for (std::int64_t row = begin; row < end; ++row) args.losses[row] = args.by_state[row] = 0.0f;
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
      args.by_state[row++] = own_multiple<kCosine>(static_cast<float>(slope_times_logit),
                                                   products.state_squares[k]);
      column = 0;
      slope_times_logit = 0.0;
    }
  }
}

// sum_k coefficient_k row_k into `out`, a block of rows at a time; complete after flush().
class RowSum {
 public:
  RowSum(std::int64_t width, float* out) : width_(width), out_(out) {
    for (std::int64_t i = 0; i < width; ++i) out[i] = 0.0f;
  }

  void add(float coefficient, const float* row) {
    if (coefficient == 0.0f) return;
    if (n_ == kBlock) flush();
    coefficients_[n_] = coefficient;
    rows_[n_++] = row;
  }

  void flush() {
    add_rows(n_, coefficients_, rows_, width_, out_);
    n_ = 0;
  }

 private:
  std::int64_t width_;
  float* out_;
  int n_ = 0;
  float coefficients_[kBlock];
  const float* rows_[kBlock];
};

}  // namespace

void weighted_bce(const WeightedBceArgs& args, std::int64_t begin, std::int64_t end) {
  if (args.similarity.cosine) {
    losses_of_rows<true>(args, begin, end);
  } else {
    losses_of_rows<false>(args, begin, end);
  }
}

void weighted_bce_states(const WeightedBceStatesArgs& args, std::int64_t begin, std::int64_t end) {
  const Candidates& all = args.candidates;
  for (std::int64_t row = begin; row < end; ++row) {
    RowSum sum(all.width, args.out + row * all.width);
    for (std::int64_t at = row * all.n_candidates; at < (row + 1) * all.n_candidates; ++at) {
      prefetch_candidate(all, at + kPrefetchAhead);
      if (all.items[at] < 0) continue;
      sum.add(args.upstream * args.by_dot[at], all.table + all.items[at] * all.width);
    }
    sum.add(args.upstream * args.by_state[row], all.states + row * all.width);
    sum.flush();
  }
}

void weighted_bce_table(const WeightedBceTableArgs& args, std::int64_t begin, std::int64_t end) {
  const Candidates& all = args.candidates;
  const auto n_candidates = static_cast<std::uint32_t>(all.n_candidates);
  for (std::int64_t group = begin; group < end; ++group) {
    const std::int64_t item = args.group_items[group];
    RowSum sum(all.width, args.out + (args.compact ? group : item) * all.width);
    float by_item = 0.0f;
    for (std::int64_t k = args.group_starts[group]; k < args.group_starts[group + 1]; ++k) {
      const auto at = static_cast<std::uint32_t>(args.order[k]);
      by_item += args.by_item[at];
      sum.add(args.upstream * args.by_dot[at],
              all.states + std::int64_t{at / n_candidates} * all.width);
    }
    sum.add(args.upstream * by_item, all.table + item * all.width);
    sum.flush();
  }
}

}  // namespace pdrec::PDREC_ISA
