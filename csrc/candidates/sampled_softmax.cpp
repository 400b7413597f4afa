#include "candidates/sampled_softmax.hpp"

#include "candidates/_softmax_row.hpp"

namespace pdrec::PDREC_ISA {
namespace {

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
    const float largest = largest_negative(row);
    const double sum = sum_negatives(row, largest);
    float loss, slope;
    loss_of_row(row.grad_dot[0], largest, sum, loss, slope);
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
