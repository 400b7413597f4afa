// What the files of the dispatch share: the table in use, threads and scratch memory.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "kernel_table.hpp"
#include "parallel.hpp"

namespace pdrec {

std::atomic<const KernelTable*>& current();

// This thread's memory for intermediate results, kept from call to call: fresh memory would cost
// more than what is computed in it. It begins a line of the cache.
float* kept_scratch(std::int64_t size);

namespace {

// A kernel that needs no scratch memory.
template <class Args>
void run(const Args& args, std::int64_t n_rows, int n_threads,
         void (*kernel)(const Args&, std::int64_t, std::int64_t)) {
  for_rows(n_rows, n_threads, [&](const NextRows& next) {
    for (RowRange rows; next(rows);) kernel(args, rows.begin, rows.end);
  });
}

// A thread's start costs 30 us, and the core it needs may still be spinning in torch's own pool. So
// each must find work for a millisecond, at roughly 25 operations in a nanosecond. Builds for tests
// of threads take them at once.
#ifndef PDREC_WORK_PER_THREAD
#define PDREC_WORK_PER_THREAD 2.5e7
#endif
inline int threads_for(double operations, int n_threads) {
  return static_cast<int>(std::min<double>(n_threads, 1.0 + operations / PDREC_WORK_PER_THREAD));
}

}  // namespace
}  // namespace pdrec
