// Rows of a batch over threads: torch's own where they are known, else some that live for one call.
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

// GOMP_parallel of the OpenMP runtime that torch uses (libgomp's ABI, which LLVM's and Intel's have
// too): runs a function on a team of threads and returns when all have ended.
using RunTeam = void (*)(void (*function)(void*), void* data, unsigned n_threads, unsigned flags);

// From now on for_rows runs on that runtime's threads: they stay from call to call, and torch's
// products and these kernels no longer wait for each other's. In a process forked later they do not
// exist, and for_rows starts its own again.
void use_team(RunTeam run);

}  // namespace pdrec
