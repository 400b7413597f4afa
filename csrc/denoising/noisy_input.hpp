// The dropped-out, noised state of diffusion training: keep / (1 - p) * (signal x0 + sigma eps).
#pragma once

#include <cstdint>

namespace pdrec {

struct NoisyInputArgs {
  std::int64_t n_rows;
  std::int32_t n_items;
  const std::int64_t* indptr;  // [n_rows + 1]
  const std::int32_t* items;   // unique within a row, in any order
  const float* values;         // x0 at those items
  const float* signal;         // [n_rows]
  const float* sigma;          // [n_rows]
  bool dropout;
  std::uint32_t keep_from;  // an item is kept where its word is at least this
  float keep_scale;         // 1 / (1 - p)
  std::uint64_t seed;
  std::uint32_t epoch;
  const std::int64_t* users;  // [n_rows]
  std::uint32_t first_block;  // of random words: those of the first four columns
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
// Out is float, or uint16_t for the bits of a bfloat16.
// signal_row: zeros for n_items rounded up to a multiple of 128, left zeroed.
template <class Out>
void noisy_input(const NoisyInputArgs& args, Out* out, std::int64_t begin, std::int64_t end,
                 float* signal_row);
extern template void noisy_input<float>(const NoisyInputArgs&, float*, std::int64_t, std::int64_t,
                                        float*);
extern template void noisy_input<std::uint16_t>(const NoisyInputArgs&, std::uint16_t*,
                                                std::int64_t, std::int64_t, float*);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
