// Uniform draws from a user's pool: the unobserved items at or after a threshold in his order.
#pragma once

#include <cstdint>

namespace pdrec {

struct PoolSamplingArgs {
  const float* scores;  // [n_rows, n_items]
  std::int64_t n_rows;
  std::int32_t n_items;
  const std::int64_t* indptr;          // [n_rows + 1]
  const std::int32_t* observed;        // ascending and unique within a row
  const float* threshold_score;        // [n_rows]
  const std::int32_t* threshold_item;  // [n_rows]
  std::int64_t n_draws;
  bool replace;
  std::uint64_t seed;
  std::uint32_t epoch;
  const std::int64_t* users;  // [n_rows]
  std::int32_t* draws;        // [n_rows, n_draws]
  // [n_rows]: the size of the pool, counted only as far as the draws need it to be known.
  std::int64_t* pool_size;
};

struct PoolSamplingScratch {
  std::uint64_t* excluded;  // n_items / 64 + 1 zeros, left zeroed
  std::int32_t* listed;     // n_items / 64 + 1
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
// A row whose pool is too small for its draws is left unwritten; pool_size tells.
void sample_pool(const PoolSamplingArgs& args, std::int64_t begin, std::int64_t end,
                 const PoolSamplingScratch& scratch);
}
#endif

}  // namespace pdrec
