#include "candidates/item_logits.hpp"

namespace pdrec::PDREC_ISA {
namespace {

template <bool kCosine>
void logits_of_rows(const ItemLogitsArgs& args, std::int64_t begin, std::int64_t end) {
  const Candidates& all = args.candidates;
  const auto present = [&](std::int64_t at) { return all.items[at] >= 0; };
  const float temperature = args.similarity.temperature;
  const std::int64_t stop = end * all.n_candidates;
  Products products;
  for (std::int64_t start = begin * all.n_candidates; start < stop; start += kBlock) {
    const int n = stop - start < kBlock ? static_cast<int>(stop - start) : kBlock;
    block_products<kCosine>(all, start, n, present, products);
    float* logits = args.logits + start;
    for (int k = 0; k < n; ++k) {
      logits[k] = products.dots[k] *
                  logit_scale<kCosine>(temperature, products.state_squares[k],
                                       products.item_squares[k]);
    }
    for (int k = 0; k < n; ++k) {
      const std::int32_t item = all.items[start + k];
      if (item < 0) {
        logits[k] = -INFINITY;
      } else if (args.bias != nullptr) {
        logits[k] += args.bias[item];
      }
    }
  }
}

}  // namespace

void item_logits(const ItemLogitsArgs& args, std::int64_t begin, std::int64_t end) {
  for_similarity(args.similarity, [&](auto cosine) {
    logits_of_rows<decltype(cosine)::value>(args, begin, end);
  });
}

}  // namespace pdrec::PDREC_ISA
