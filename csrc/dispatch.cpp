#include "dispatch.hpp"

#include <algorithm>
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

// A thread's start costs 30 us, and the core it needs may still be spinning in torch's own pool. So
// each must find work for a millisecond, at roughly 25 operations in a nanosecond.
int threads_for(double operations, int n_threads) {
  constexpr double kPerThread = 2.5e7;
  return static_cast<int>(std::min<double>(n_threads, 1.0 + operations / kPerThread));
}

// Of what exponentials of a block's logits take, about 30 operations each.
int threads_for(const LogitBlock& block, std::int64_t n_rows, int n_threads) {
  return threads_for(30.0 * static_cast<double>(n_rows * block.n_items), n_threads);
}

struct AttentionSize {
  std::int64_t longest;
  double pairs;  // of a query and a key, in all heads
};

AttentionSize attention_size(const PackedAttentionArgs& args) {
  AttentionSize size{0, 0.0};
  for (std::int64_t b = 0; b < args.n_sequences; ++b) {
    const std::int64_t length = args.indptr[b + 1] - args.indptr[b];
    size.longest = std::max(size.longest, length);
    size.pairs += 0.5 * static_cast<double>(args.n_heads * length) * static_cast<double>(length);
  }
  return size;
}

// Calls kernel(begin, end, scratch) for all heads of all sequences.
template <class Kernel>
void run_attention(const PackedAttentionArgs& args, int n_products, int n_threads,
                   const Kernel& kernel) {
  const AttentionSize size = attention_size(args);
  const auto width = static_cast<std::size_t>(args.width);
  const auto padded =
      static_cast<std::size_t>((size.longest + kKeyPadding - 1) / kKeyPadding * kKeyPadding);
  const double operations = 2.0 * n_products * size.pairs * static_cast<double>(args.width);
  for_rows(args.n_sequences * args.n_heads, threads_for(operations, n_threads),
           [&](const NextRows& next) {
             std::vector<float> floats(2 * (width + kQueries) * padded);
             std::vector<std::uint32_t> words(kQueries * padded + kWordsSlack);
             float* weights = floats.data() + 2 * width * padded;
             const PackedAttentionScratch scratch{floats.data(), floats.data() + width * padded,
                                                  weights, weights + kQueries * padded,
                                                  words.data()};
             for (RowRange rows; next(rows);) kernel(rows.begin, rows.end, scratch);
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

void count_above(const CountAboveArgs& args, int n_threads) {
  // Reading a score from a shared cache takes as long as about 8 operations.
  const double operations = 8.0 * static_cast<double>(args.n_rows) * args.n_items;
  run(args, args.n_rows, threads_for(operations, n_threads), current().load()->count_above);
}

void noisy_input(const NoisyInputArgs& args, float* out, int n_threads) {
  run_noisy_input(args, out, n_threads, current().load()->noisy_input_f32);
}

void noisy_input(const NoisyInputArgs& args, std::uint16_t* out, int n_threads) {
  run_noisy_input(args, out, n_threads, current().load()->noisy_input_bf16);
}

void packed_dropout(const PackedDropoutArgs& args, int n_threads) {
  // A word of the generator takes about 25 operations.
  const double operations =
      25.0 * static_cast<double>(args.indptr[args.n_sequences] * args.width);
  run(args, args.n_sequences, threads_for(operations, n_threads), current().load()->packed_dropout);
}

void packed_attention(const PackedAttentionArgs& args, float* out, int n_threads) {
  const KernelTable* table = current().load();
  run_attention(args, 2, n_threads,
                [&](std::int64_t begin, std::int64_t end, const PackedAttentionScratch& scratch) {
                  table->packed_attention(args, out, begin, end, scratch);
                });
}

void packed_attention_backward(const PackedAttentionArgs& args,
                               const PackedAttentionGradients& gradients, int n_threads) {
  const KernelTable* table = current().load();
  run_attention(args, 5, n_threads,
                [&](std::int64_t begin, std::int64_t end, const PackedAttentionScratch& scratch) {
                  table->packed_attention_backward(args, gradients, begin, end, scratch);
                });
}

void block_norm(const NormArgs& args) { current().load()->block_norm(args); }

void block_norm_gradient(const NormGradientArgs& args) {
  current().load()->block_norm_gradient(args);
}

void block_dropout(BiasDropoutArgs args) {
  std::vector<float> bias(static_cast<std::size_t>(args.width + kBiasSlack));
  for (std::size_t j = 0; j < bias.size(); ++j) {
    bias[j] = args.bias[j % static_cast<std::size_t>(args.width)];
  }
  args.bias = bias.data();
  current().load()->block_dropout(args);
}

void block_dropout_gradient(const DropoutGradientArgs& args) {
  current().load()->block_dropout_gradient(args);
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
