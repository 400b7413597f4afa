#include "candidates/shared_softmax.hpp"

#include "candidates/_softmax_row.hpp"

namespace pdrec::PDREC_ISA {
namespace {

bool has_shared_negatives(const SharedSoftmaxArgs& args, std::int32_t positive) {
  for (std::int64_t i = 0; i < args.block.n_items; ++i) {
    if (args.negatives[i] != positive) return true;
  }
  return false;
}

// The loss of a row that counts; its derivatives into `row`, and those by shared negatives.
template <bool kCosine, class Element>
void loss_of_counted(const SharedSoftmaxArgs& args, std::int64_t t, Row& row, Element* values) {
  find_logits<kCosine>(args, t * row.n_candidates, row);
  const float temperature = args.similarity.temperature;
  const ListedItems negatives{args.negatives, args.offsets};
  RowOfBlock shared{kCosine ? temperature / norm_at_least_eps(row.state_square) : 1.0f,
                    row.items[0], largest_negative(row)};
  shared.largest = largest_logit(negatives, values, args.block.n_items, shared);
  const RowSums sums = make_exponentials(negatives, values, args.block.n_items, shared);
  const double sum = sum_negatives(row, shared.largest) + sums.exponentials;
  float loss, slope;
  loss_of_row(row.grad_dot[0], shared.largest, sum, loss, slope);
  const float weight = args.weights[t];
  const double share = weight * slope / sum;
  args.losses[t] = weight * loss;
  args.factors[t] = static_cast<float>(share) * shared.scale;
  args.grad_state[t] = find_derivatives<kCosine>(row, temperature, weight * slope, shared.largest,
                                                 sum, share * sums.slopes_times_logits);
}

template <bool kCosine>
void losses_of_rows(const SharedSoftmaxArgs& args, std::int64_t begin, std::int64_t end) {
  const Candidates& all = args.candidates;
  for (std::int64_t t = begin; t < end; ++t) {
    const std::int64_t first = t * all.n_candidates;
    Row row{all.items + first, all.n_candidates, args.grad_dot + first, args.grad_item + first, 0.0f};
    const bool counts = row.items[0] >= 0 && args.weights[t] != 0.0f &&
                        (has_negatives(row) || has_shared_negatives(args, row.items[0]));
    for_row_values(args.block, t, [&](auto* values) {
      if (counts) {
        loss_of_counted<kCosine>(args, t, row, values);
        return;
      }
      args.losses[t] = args.grad_state[t] = args.factors[t] = 0.0f;
      clear(row);
      for (std::int64_t i = 0; i < args.block.n_items; ++i) values[i] = 0;
    });
  }
}

}  // namespace

void shared_softmax(const SharedSoftmaxArgs& args, std::int64_t begin, std::int64_t end) {
  for_similarity(args.similarity, [&](auto cosine) {
    losses_of_rows<decltype(cosine)::value>(args, begin, end);
  });
}

void shared_softmax_products(const SharedSoftmaxArgs& args, const ItemProducts& products,
                             const PartOfRows& part) {
  losses_with_products(products, part, args.factors,
                       [&](const LogitBlock& block, std::int64_t begin, std::int64_t end) {
                         SharedSoftmaxArgs here = args;
                         here.block = block;
                         shared_softmax(here, begin, end);
                       });
}

}  // namespace pdrec::PDREC_ISA
