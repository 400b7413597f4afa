// How losses with products of matrices are split, and the memory that they take.
#pragma once

#include <algorithm>
#include <cstdint>

#include "candidates/_item_products.hpp"

namespace pdrec {
namespace {

// Parts of the rows, each with a gradient of the items of its own, the same whatever the number of
// threads: bits do not depend on that.
struct ItemProductsPlan {
  ItemProductsPlan(const ItemProducts& products, std::int64_t n_rows, bool of_items) {
    constexpr std::int64_t kPartRows = 256, kMostParts = 8, kMostFloats = 1 << 23;
    // Whole tiles of rows; few enough for a block to stay in the second-level cache where it can.
    constexpr std::int64_t kTile = 6, kMostRows = 96, kMostBlock = 1 << 22;
    const std::int64_t size = products.n_items * products.width;
    n_parts = std::min(kMostParts, n_rows / kPartRows);
    if (of_items) n_parts = std::min(n_parts, std::max<std::int64_t>(2, kMostFloats / std::max<std::int64_t>(1, size)));
    n_parts = std::max<std::int64_t>(1, n_parts / 2 * 2);  // even, for two threads
    part_rows = (n_rows + n_parts - 1) / n_parts;
    at_a_time = std::clamp(kMostBlock / row_of_block(products.n_items), kTile, kMostRows);
    const std::int64_t times = std::max<std::int64_t>(1, (part_rows + at_a_time - 1) / at_a_time);
    at_a_time = ((part_rows + times - 1) / times + kTile - 1) / kTile * kTile;
    thread_floats = at_a_time * (row_of_block(products.n_items) + products.width);
    panel_floats = (products.n_items + kPanel - 1) / kPanel * kPanel * products.width;
    own_floats = of_items ? size : 0;
  }

  std::int64_t n_parts, part_rows, at_a_time;
  std::int64_t thread_floats, panel_floats, own_floats;  // of a thread, of all, of a part
};

inline void make_panels(const ItemProducts& p, float* panels) {
  for (std::int64_t first = 0; first < p.n_items; first += kPanel, panels += kPanel * p.width) {
    const std::int64_t n = std::min(kPanel, p.n_items - first);
    if (n < kPanel) std::fill_n(panels, kPanel * p.width, 0.0f);
    for (std::int64_t k = 0; k < p.width; ++k) {
      const float* const column = p.items + first * p.width + k;
      for (std::int64_t i = 0; i < n; ++i) panels[k * kPanel + i] = column[i * p.width];
    }
  }
}

}  // namespace
}  // namespace pdrec
