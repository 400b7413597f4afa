#include "counter_rng.hpp"

namespace pdrec::PDREC_ISA {

void random_words(const RandomWordsArgs& args, std::int64_t begin, std::int64_t end) {
  std::uint32_t words[4][kLanes];
  for (std::int64_t row = begin; row < end; ++row) {
    const PhiloxStream id{args.seed, static_cast<std::uint32_t>(args.users[row]), args.epoch,
                          args.stream};
    std::uint32_t* out = args.out + row * args.n_words;
    for (std::int64_t first = 0; first < args.n_words; first += kWordsPerCall) {
      philox_blocks(id, static_cast<std::uint32_t>(first / 4), words);
      for (std::int64_t j = first; j < args.n_words && j < first + kWordsPerCall; ++j) {
        out[j] = words[j % 4][(j - first) / 4];
      }
    }
  }
}

}  // namespace pdrec::PDREC_ISA
