#include "dispatch.hpp"

#include <atomic>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "parallel.hpp"

namespace pdrec {
namespace {

struct Isa {
  const KernelTable* table;
  bool runnable;
};

// Ascending in speed.
const std::vector<Isa>& isas() {
  static const std::vector<Isa> all = {
      {&baseline::table, true},
#ifdef PDREC_X86_KERNELS
      {&avx2::table, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
                         __builtin_cpu_supports("popcnt")},
      {&avx512::table, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi") &&
                           __builtin_cpu_supports("popcnt")},
#endif
  };
  return all;
}

const KernelTable* best_table() {
  const KernelTable* best = nullptr;
  for (const Isa& candidate : isas()) {
    if (candidate.runnable) best = candidate.table;
  }
  return best;
}

std::atomic<const KernelTable*>& current() {
  static std::atomic<const KernelTable*> table{best_table()};
  return table;
}

// A kernel that needs no scratch memory.
template <class Args>
void run(const Args& args, std::int64_t n_rows, int n_threads,
         void (*kernel)(const Args&, std::int64_t, std::int64_t)) {
  for_rows(n_rows, n_threads, [&](const NextRows& next) {
    for (RowRange rows; next(rows);) kernel(args, rows.begin, rows.end);
  });
}

template <class Out>
void run_noisy_input(const NoisyInputArgs& args, Out* out, int n_threads,
                     void (*kernel)(const NoisyInputArgs&, Out*, std::int64_t, std::int64_t,
                                    float*)) {
  for_rows(args.n_rows, n_threads, [&](const NextRows& next) {
    std::vector<float> signal_row((static_cast<std::size_t>(args.n_items) + 127) / 128 * 128);
    for (RowRange rows; next(rows);) kernel(args, out, rows.begin, rows.end, signal_row.data());
  });
}

}  // namespace

std::vector<std::string> built_isas() {
  std::vector<std::string> names;
  for (const Isa& each : isas()) names.emplace_back(each.table->isa);
  return names;
}

std::vector<std::string> runnable_isas() {
  std::vector<std::string> names;
  for (const Isa& each : isas()) {
    if (each.runnable) names.emplace_back(each.table->isa);
  }
  return names;
}

std::string isa() { return current().load()->isa; }

void set_isa(const std::string& name) {
  for (const Isa& each : isas()) {
    if (name == each.table->isa && each.runnable) {
      current().store(each.table);
      return;
    }
  }
  std::string message = "isa='" + name + "' cannot run here; choose one of:";
  for (const std::string& usable : runnable_isas()) message += " " + usable;
  throw std::invalid_argument(message);
}

void random_words(const RandomWordsArgs& args, std::int64_t n_rows, int n_threads) {
  run(args, n_rows, n_threads, current().load()->random_words);
}

void select_unobserved(const SelectionArgs& args, int n_threads) {
  const KernelTable* table = current().load();
  for_rows(args.n_rows, n_threads, [&](const NextRows& next) {
    // Uninitialised on purpose: most rows touch a small part of it.
    const auto n = static_cast<std::size_t>(args.n_items);
    const std::unique_ptr<float[]> values(new float[n]);
    const std::unique_ptr<std::int32_t[]> items(new std::int32_t[n]);
    const std::unique_ptr<std::int32_t[]> positions(
        new std::int32_t[n + kPositionsSlack]);
    const std::unique_ptr<SelectionKey[]> keys(new SelectionKey[n]);
    const SelectionScratch scratch{values.get(), items.get(), positions.get(), keys.get()};
    for (RowRange rows; next(rows);) {
      table->select_unobserved(args, rows.begin, rows.end, scratch);
    }
  });
}

void sample_pool(const PoolSamplingArgs& args, int n_threads) {
  const KernelTable* table = current().load();
  for_rows(args.n_rows, n_threads, [&](const NextRows& next) {
    const std::size_t n = static_cast<std::size_t>(args.n_items) / 64 + 1;
    std::vector<std::uint64_t> excluded(n);
    std::vector<std::int32_t> listed(n);
    const PoolSamplingScratch scratch{excluded.data(), listed.data()};
    for (RowRange rows; next(rows);) table->sample_pool(args, rows.begin, rows.end, scratch);
  });
}

void noisy_input(const NoisyInputArgs& args, float* out, int n_threads) {
  run_noisy_input(args, out, n_threads, current().load()->noisy_input_f32);
}

void noisy_input(const NoisyInputArgs& args, std::uint16_t* out, int n_threads) {
  run_noisy_input(args, out, n_threads, current().load()->noisy_input_bf16);
}

void item_logits(const ItemLogitsArgs& args, int n_threads) {
  run(args, args.candidates.n_rows, n_threads, current().load()->item_logits);
}

double weighted_bce(WeightedBceArgs args, int n_threads) {
  std::vector<double> losses(static_cast<std::size_t>(args.candidates.n_rows));
  args.losses = losses.data();
  run(args, args.candidates.n_rows, n_threads, current().load()->weighted_bce);
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

void weighted_bce_states(const WeightedBceStatesArgs& args, int n_threads) {
  run(args, args.candidates.n_rows, n_threads, current().load()->weighted_bce_states);
}

void weighted_bce_table(const WeightedBceTableArgs& args, int n_threads) {
  run(args, args.n_groups, n_threads, current().load()->weighted_bce_table);
}

}  // namespace pdrec
