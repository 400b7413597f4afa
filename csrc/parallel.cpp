#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace pdrec {

void for_rows(std::int64_t n_rows, int n_threads,
              const std::function<void(const NextRows& next)>& worker) {
  // Small blocks even out rows of unequal cost.
  const std::int64_t threads = std::max<std::int64_t>(1, std::min<std::int64_t>(n_threads, n_rows));
  const std::int64_t block = std::max<std::int64_t>(1, n_rows / (threads * 16));
  std::atomic<std::int64_t> taken{0};
  const NextRows next = [&](RowRange& rows) {
    rows.begin = taken.fetch_add(block, std::memory_order_relaxed);
    rows.end = std::min(rows.begin + block, n_rows);
    return rows.begin < n_rows;
  };
  std::mutex mutex;
  std::exception_ptr failure;
  const auto guarded = [&] {
    try {
      worker(next);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<std::size_t>(threads - 1));
  try {
    for (std::int64_t i = 1; i < threads; ++i) helpers.emplace_back(guarded);
  } catch (const std::system_error&) {
    // The system refuses more threads: those that started, and this one, take all rows.
  }
  guarded();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace pdrec
