#include "candidates/corpus_softmax.hpp"

#include "candidates/_softplus.hpp"

namespace pdrec::PDREC_ISA {
namespace {

float row_scale(const CorpusSoftmaxArgs& args, std::int64_t t) {
  if (!args.similarity.cosine) return 1.0f;
  return args.similarity.temperature / norm_at_least_eps(args.squares[t]);
}

float widened(float value) { return value; }

float widened(std::uint16_t value) { return bits_to_float(static_cast<std::int32_t>(value) << 16); }

void put(float value, float& to) { to = value; }

void put(float value, std::uint16_t& to) {
  std::uint16_t lanes[kVector];
  store_narrow(broadcast(value), lanes);
  to = lanes[0];
}

// The positive's column in the block, or -1.
std::int64_t positive_column(const CorpusSoftmaxArgs& args, std::int64_t t) {
  const std::int64_t column = std::int64_t{args.positives[t]} - args.first_item;
  return args.positives[t] >= 0 && column >= 0 && column < args.block.n_items ? column : -1;
}

template <class Element>
void add_to_totals(const CorpusLosses& args, std::int64_t t, Element* values) {
  CorpusTotals& totals = args.totals[t];
  const ItemRange items{args.first_item};
  RowOfBlock row{row_scale(args, t), args.positives[t], static_cast<float>(totals.largest)};
  const std::int64_t column = positive_column(args, t);
  if (column >= 0) totals.positive = widened(values[column]) * row.scale;
  row.largest = largest_logit(items, values, args.block.n_items, row);
  const RowSums sums = make_exponentials(items, values, args.block.n_items, row);
  // A row without negatives so far has nothing to scale.
  const double decay = totals.sum == 0.0 ? 0.0 : std::exp(totals.largest - row.largest);
  totals.sum = totals.sum * decay + sums.exponentials;
  totals.slopes_times_logits = totals.slopes_times_logits * decay + sums.slopes_times_logits;
  totals.largest = row.largest;
}

// The derivative by the positive's logit is minus the sum of all others.
template <class Element>
void put_positive(const CorpusSoftmaxArgs& args, std::int64_t t, Element* values) {
  const std::int64_t column = positive_column(args, t);
  if (column >= 0) put(static_cast<float>(-args.totals[t].sum), values[column]);
}

void finish(const CorpusLosses& args, std::int64_t t) {
  const CorpusTotals& totals = args.totals[t];
  if (totals.sum == 0.0) return;
  const float excess = static_cast<float>(totals.largest - totals.positive + std::log(totals.sum));
  float loss, slope;
  softplus(excess, loss, slope);
  const double share = args.weights[t] * slope / totals.sum;
  const double product = totals.slopes_times_logits - totals.sum * totals.positive;
  args.losses[t] = args.weights[t] * loss;
  args.factors[t] = static_cast<float>(share) * row_scale(args, t);
  if (args.similarity.cosine) {
    args.grad_state[t] =
        own_multiple<true>(static_cast<float>(share * product), args.squares[t]);
  }
}

bool counts(const CorpusSoftmaxArgs& args, std::int64_t t) {
  return args.positives[t] >= 0 && args.weights[t] != 0.0f;
}

template <class Element>
void clear_row(const CorpusSoftmaxArgs& args, Element* values) {
  for (std::int64_t i = 0; i < args.block.n_items; ++i) values[i] = 0;
}

}  // namespace

void corpus_softmax(const CorpusLosses& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t t = begin; t < end; ++t) {
    if (args.is_first) args.totals[t] = {-INFINITY, 0.0, 0.0, 0.0};
    if (args.is_last) args.losses[t] = args.factors[t] = args.grad_state[t] = 0.0f;
    for_row_values(args.block, t, [&](auto* values) {
      if (!counts(args, t)) {
        clear_row(args, values);
        return;
      }
      add_to_totals(args, t, values);
      if (args.is_last) finish(args, t);
      if (args.is_first && args.is_last) put_positive(args, t, values);
    });
  }
}

void corpus_softmax_products(const CorpusLosses& args, const ItemProducts& products,
                             const PartOfRows& part) {
  losses_with_products(products, part, args.factors,
                       [&](const LogitBlock& block, std::int64_t begin, std::int64_t end) {
                         CorpusLosses here = args;
                         here.block = block;
                         corpus_softmax(here, begin, end);
                       });
}

void corpus_derivatives(const CorpusSoftmaxArgs& args, std::int64_t begin, std::int64_t end) {
  for (std::int64_t t = begin; t < end; ++t) {
    for_row_values(args.block, t, [&](auto* values) {
      if (!counts(args, t)) {
        clear_row(args, values);
        return;
      }
      const RowOfBlock row{row_scale(args, t), args.positives[t],
                           static_cast<float>(args.totals[t].largest)};
      make_exponentials(ItemRange{args.first_item}, values, args.block.n_items, row);
      put_positive(args, t, values);
    });
  }
}

}  // namespace pdrec::PDREC_ISA
