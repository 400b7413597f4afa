#include "dispatch.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "_dispatch.hpp"
#include "candidates/_products_plan.hpp"
#include "processor.hpp"

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
      {&avx2::table, processor().avx2},
      {&avx512::table, processor().avx512},
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

template <class Args>
double sum_of_losses(Args args, std::int64_t n_rows, int n_threads,
                     void (*kernel)(const Args&, std::int64_t, std::int64_t)) {
  std::vector<double> losses(static_cast<std::size_t>(n_rows));
  args.losses = losses.data();
  run(args, n_rows, n_threads, kernel);
  return std::accumulate(losses.begin(), losses.end(), 0.0);
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

// Of what exponentials of a block's logits take, about 30 operations each.
int threads_for(const LogitBlock& block, std::int64_t n_rows, int n_threads) {
  return threads_for(30.0 * static_cast<double>(n_rows * block.n_items), n_threads);
}

// out += the gradients of all parts but the first, which is out.
void add_parts(const ItemProductsPlan& plan, const float* parts, float* out, int n_threads) {
  const double operations = 8.0 * static_cast<double>(plan.n_parts * plan.own_floats);
  constexpr std::int64_t kFloats = 4096;
  for_rows((plan.own_floats + kFloats - 1) / kFloats, threads_for(operations, n_threads),
           [&](const NextRows& next) {
             for (RowRange taken; next(taken);) {
               const std::int64_t end = std::min(taken.end * kFloats, plan.own_floats);
               for (std::int64_t part = 0; part + 1 < plan.n_parts; ++part) {
                 const float* const from = parts + part * plan.own_floats;
                 for (std::int64_t i = taken.begin * kFloats; i < end; ++i) out[i] += from[i];
               }
             }
           });
}

// Calls kernel(args, products, part) for all parts; the sum of args.losses, set here.
template <class Args>
double run_products(Args args, ItemProducts products, std::int64_t n_rows, float* grad_items,
                    int n_threads,
                    void (*kernel)(const Args&, const ItemProducts&, const PartOfRows&)) {
  const ItemProductsPlan plan(products, n_rows, grad_items != nullptr);
  std::vector<double> losses(static_cast<std::size_t>(n_rows));
  args.losses = losses.data();
  const double operations =
      6.0 * static_cast<double>(n_rows) * static_cast<double>(products.n_items * products.width);
  n_threads = static_cast<int>(
      std::min<std::int64_t>(threads_for(operations, n_threads), plan.n_parts));
  float* const panels = kept_scratch(plan.panel_floats + (plan.n_parts - 1) * plan.own_floats +
                                     n_threads * plan.thread_floats);
  float* const parts = panels + plan.panel_floats;
  float* const scratch = parts + (plan.n_parts - 1) * plan.own_floats;
  make_panels(products, panels);
  products.panels = panels;
  std::atomic<int> threads{0};
  for_rows(plan.n_parts, n_threads, [&](const NextRows& next) {
    float* const block = scratch + threads.fetch_add(1) * plan.thread_floats;
    float* const scaled = block + plan.at_a_time * row_of_block(products.n_items);
    for (RowRange taken; next(taken);) {
      for (std::int64_t part = taken.begin; part < taken.end; ++part) {
        float* const own = part == 0 ? grad_items : parts + (part - 1) * plan.own_floats;
        kernel(args, products,
               {part * plan.part_rows, std::min((part + 1) * plan.part_rows, n_rows),
                plan.at_a_time, block, scaled, grad_items ? own : nullptr});
      }
    }
  });
  if (grad_items) add_parts(plan, parts, grad_items, n_threads);
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

}  // namespace

std::atomic<const KernelTable*>& current() {
  static std::atomic<const KernelTable*> table{best_table()};
  return table;
}

float* kept_scratch(std::int64_t size) {
  constexpr std::size_t kLine = 16;
  static thread_local std::vector<float> memory;
  const std::size_t needed = static_cast<std::size_t>(size) + kLine;
  if (memory.size() < needed) memory.resize(needed);
  const std::size_t past = reinterpret_cast<std::uintptr_t>(memory.data()) / sizeof(float) % kLine;
  return memory.data() + (kLine - past) % kLine;
}

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

void count_above(const CountAboveArgs& args, int n_threads) {
  // Reading a score from a shared cache takes as long as about 8 operations.
  const double operations = 8.0 * static_cast<double>(args.n_rows) * args.n_items;
  run(args, args.n_rows, threads_for(operations, n_threads), current().load()->count_above);
}

void count_above_sums(const CountAboveSumsArgs& args, int n_threads) {
  const double operations =
      4.0 * static_cast<double>(args.n_rows) * args.n_items * static_cast<double>(args.n_weights);
  run(args, args.n_rows, threads_for(operations, n_threads), current().load()->count_above_sums);
}

void noisy_input(const NoisyInputArgs& args, float* out, int n_threads) {
  run_noisy_input(args, out, n_threads, current().load()->noisy_input_f32);
}

void noisy_input(const NoisyInputArgs& args, std::uint16_t* out, int n_threads) {
  run_noisy_input(args, out, n_threads, current().load()->noisy_input_bf16);
}

void sparse_product(const SparseProductArgs& args, int n_threads) {
  // Every row writes all its columns once, and some thousand of them again.
  const double operations = 4.0 * static_cast<double>(args.n_rows) * args.n_columns;
  run(args, args.n_rows, threads_for(operations, n_threads), current().load()->sparse_product);
}

void item_logits(const ItemLogitsArgs& args, int n_threads) {
  run(args, args.candidates.n_rows, n_threads, current().load()->item_logits);
}

double weighted_bce(WeightedBceArgs args, int n_threads) {
  return sum_of_losses(args, args.candidates.n_rows, n_threads, current().load()->weighted_bce);
}

double sampled_softmax(CandidateLoss args, int n_threads) {
  return sum_of_losses(args, args.candidates.n_rows, n_threads, current().load()->sampled_softmax);
}

double shared_softmax(SharedSoftmaxArgs args, int n_threads) {
  const std::int64_t n_rows = args.candidates.n_rows;
  return sum_of_losses(args, n_rows, threads_for(args.block, n_rows, n_threads),
                       current().load()->shared_softmax);
}

double corpus_softmax(CorpusLosses args, int n_threads) {
  return sum_of_losses(args, args.n_rows, threads_for(args.block, args.n_rows, n_threads),
                       current().load()->corpus_softmax);
}

double shared_softmax(SharedSoftmaxArgs args, ItemProducts products, float* grad_items,
                      int n_threads) {
  const std::int64_t n_rows = args.candidates.n_rows;
  return run_products(args, products, n_rows, grad_items, n_threads,
                      current().load()->shared_softmax_products);
}

double corpus_softmax(CorpusLosses args, ItemProducts products, float* grad_items, int n_threads) {
  return run_products(args, products, args.n_rows, grad_items, n_threads,
                      current().load()->corpus_softmax_products);
}

void corpus_derivatives(const CorpusSoftmaxArgs& args, int n_threads) {
  run(args, args.n_rows, threads_for(args.block, args.n_rows, n_threads),
      current().load()->corpus_derivatives);
}

void states_gradient(const StatesGradientArgs& args, int n_threads) {
  run(args, args.candidates.n_rows, n_threads, current().load()->states_gradient);
}

void table_gradient(const TableGradientArgs& args, int n_threads) {
  run(args, args.n_groups, n_threads, current().load()->table_gradient);
}

void sum_rows(const SumRowsArgs& args, int n_threads) {
  const RowGradients& all = args.gradients;
  // Memory is what it waits for: 12 bytes an element.
  const double operations = 20.0 * static_cast<double>(all.n_groups * all.width);
  run(args, all.n_groups, threads_for(operations, n_threads), current().load()->sum_rows);
}

void adam_rows(const AdamRowsArgs& args, int n_threads) {
  const KernelTable* table = current().load();
  const RowGradients& all = args.gradients;
  // Likewise: 28 bytes an element.
  const double operations = 50.0 * static_cast<double>(all.n_groups * all.width);
  for_rows(all.n_groups, threads_for(operations, n_threads), [&](const NextRows& next) {
    std::vector<float> scratch(static_cast<std::size_t>(all.width));
    for (RowRange rows; next(rows);) {
      table->adam_rows(args, rows.begin, rows.end, scratch.data());
    }
  });
}

}  // namespace pdrec
