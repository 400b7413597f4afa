// Candidates grouped by item, for gradients that sum over the places of an item.
#pragma once

#include <cstdint>
#include <vector>

namespace pdrec {

struct ItemGroups {
  std::vector<std::int32_t> items;   // [n_groups], ascending
  std::vector<std::int64_t> starts;  // [n_groups + 1], into order
  std::vector<std::int32_t> order;   // positions in the input, ascending within a group
};

// Negative items belong to no group. n: below 2^31.
ItemGroups group_by_item(const std::int32_t* items, std::int64_t n);

}  // namespace pdrec
