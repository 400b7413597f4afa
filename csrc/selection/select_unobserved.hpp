// The first items of a user's order and the item at one rank, among the items not observed.
//
// Order: descending score, equal scores by ascending item.
#pragma once

#include <cstdint>

namespace pdrec {

struct SelectionArgs {
  const float* scores;  // [n_rows, n_items]
  std::int64_t n_rows;
  std::int32_t n_items;
  const std::int64_t* indptr;     // [n_rows + 1]
  const std::int32_t* observed;   // ascending and unique within a row
  std::int32_t top_m;
  const std::int64_t* first_rank;  // [n_rows], each below the row's count of unobserved items
  std::int32_t* top_items;         // [n_rows, top_m], filled up with -1
  float* threshold_score;          // [n_rows]
  std::int32_t* threshold_item;    // [n_rows]
  std::int32_t* nan_column;        // [n_rows], -1 where the row has no NaN
};

// A candidate as one integer: ascending keys are the order of the items.
struct SelectionKey {
  std::uint64_t bits;
};

// Each array holds n_items entries, positions kPositionsSlack more.
constexpr int kPositionsSlack = 16;

struct SelectionScratch {
  float* values;
  std::int32_t* items;
  std::int32_t* positions;
  SelectionKey* keys;
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
void select_unobserved(const SelectionArgs& args, std::int64_t begin, std::int64_t end,
                       const SelectionScratch& scratch);
}
#endif

}  // namespace pdrec
