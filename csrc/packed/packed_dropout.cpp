#include "packed/packed_dropout.hpp"

#include "counter_rng.hpp"
#include "lanes.hpp"

namespace pdrec::PDREC_ISA {

void packed_dropout(const PackedDropoutArgs& args, std::int64_t begin, std::int64_t end) {
  const SequenceDropout& dropout = args.dropout;
  std::uint32_t words[kWordsPerCall];
  for (std::int64_t row = begin; row < end; ++row) {
    const PhiloxStream id{dropout.seed, static_cast<std::uint32_t>(dropout.users[row]),
                          dropout.epoch, dropout.stream};
    const float* x = args.x + args.indptr[row] * args.width;
    float* out = args.out + args.indptr[row] * args.width;
    const std::int64_t size = (args.indptr[row + 1] - args.indptr[row]) * args.width;
    for (std::int64_t first = 0; first < size; first += kWordsPerCall) {
      philox_words(id, static_cast<std::uint32_t>(first / 4), words);
      const std::int64_t left = size - first < kWordsPerCall ? size - first : kWordsPerCall;
      std::int64_t i = 0;
      for (; i + kVector <= left; i += kVector) {
        const Vector scaled = load(x + first + i) * dropout.keep_scale;
        store(load(words + i) >= dropout.keep_from ? scaled : Vector{}, out + first + i);
      }
      for (; i < left; ++i) {
        out[first + i] = words[i] >= dropout.keep_from ? x[first + i] * dropout.keep_scale : 0.0f;
      }
    }
  }
}

}  // namespace pdrec::PDREC_ISA
