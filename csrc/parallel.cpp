#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <unistd.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace pdrec {

namespace {

RunTeam team = nullptr;
#ifdef _WIN32
bool team_is_here() { return false; }
#else
pid_t team_process = 0;
bool team_is_here() { return team != nullptr && getpid() == team_process; }
#endif

void run_on_threads(const std::function<void()>& work, std::int64_t threads) {
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<std::size_t>(threads - 1));
  try {
    for (std::int64_t i = 1; i < threads; ++i) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // The system refuses more threads: those that started, and this one, take all rows.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
}

// ThreadSanitizer does not see how a team's threads wait for each other: it is told what OpenMP
// promises, that all of the team begins after the caller's call and has ended when that returns.
#ifdef __SANITIZE_THREAD__
void after_the_others(const void* of) { __tsan_acquire(const_cast<void*>(of)); }
void before_the_others(const void* of) { __tsan_release(const_cast<void*>(of)); }
#else
void after_the_others(const void*) {}
void before_the_others(const void*) {}
#endif

void run_on_team(const std::function<void()>& work, std::int64_t threads) {
  const auto call = [](void* data) {
    after_the_others(data);
    (*static_cast<const std::function<void()>*>(data))();
    before_the_others(data);
  };
  before_the_others(&work);
  team(call, const_cast<std::function<void()>*>(&work), static_cast<unsigned>(threads), 0);
  after_the_others(&work);
}

}  // namespace

void use_team([[maybe_unused]] RunTeam run) {
#ifndef _WIN32
  team = run;
  team_process = getpid();
#endif
}

void for_rows(std::int64_t n_rows, int n_threads,
              const std::function<void(const NextRows& next)>& worker) {
  if (n_rows <= 0) return;
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
  const std::function<void()> guarded = [&] {
    try {
      worker(next);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  if (threads == 1) {
    guarded();
  } else if (team_is_here()) {
    run_on_team(guarded, threads);
  } else {
    run_on_threads(guarded, threads);
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace pdrec
