// Rows of a batch over threads that live for one call, so nothing has to survive a fork.
#pragma once

#include <cstdint>
#include <functional>

namespace pdrec {

struct RowRange {
  std::int64_t begin;
  std::int64_t end;
};

// Hands out the next rows to compute; false when none are left.
using NextRows = std::function<bool(RowRange&)>;

// Calls worker on up to n_threads threads, the calling one among them; together they take every
// row once. Rethrows a worker's first exception after all have ended.
void for_rows(std::int64_t n_rows, int n_threads,
              const std::function<void(const NextRows& next)>& worker);

}  // namespace pdrec
