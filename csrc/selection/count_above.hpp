// How many scores of a row lie above a bound, and how many equal it.
#pragma once

#include <cstdint>

namespace pdrec {

struct CountAboveArgs {
  const float* scores;  // row r begins at scores + r * row_stride
  std::int64_t n_rows;
  std::int32_t n_items;
  std::int64_t row_stride;
  const float* bounds;    // [n_rows]
  std::int64_t* greater;  // [n_rows]
  std::int64_t* equal;    // [n_rows]
  std::int64_t* nans;     // [n_rows], scores that are NaN
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
void count_above(const CountAboveArgs& args, std::int64_t begin, std::int64_t end);
}
#endif

}  // namespace pdrec
