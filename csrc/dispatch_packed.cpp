// The operations on packed sequences, see dispatch.hpp.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "_dispatch.hpp"
#include "dispatch.hpp"

namespace pdrec {
namespace {

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

// Calls kernel(range, scratch) for all of these ranges of sequences.
template <class Kernel>
void run_biased_attention(const BiasedAttentionArgs& args, const std::vector<RowRange>& ranges,
                          int n_products, int n_threads, const Kernel& kernel) {
  const PackedAttentionArgs& all = args.attention;
  const AttentionSize size = attention_size(all);
  const std::int64_t padded = (size.longest + kKeyPadding - 1) / kKeyPadding * kKeyPadding;
  const auto vectors = static_cast<std::size_t>(all.n_heads * all.width * padded);
  const auto rows = static_cast<std::size_t>(kQueries * padded);
  const auto distances = static_cast<std::size_t>(size.longest + kDistanceSlack);
  // A bias, its bucket and its gradient take about as long as ten products each.
  const double operations = size.pairs * (2.0 * n_products * static_cast<double>(all.width) + 20.0);
  for_rows(static_cast<std::int64_t>(ranges.size()), threads_for(operations, n_threads),
           [&](const NextRows& next) {
             std::vector<float> floats(2 * vectors + 4 * rows + 2 * distances);
             std::vector<std::uint32_t> words(rows + kWordsSlack);
             std::vector<std::int32_t> buckets(rows);
             float* const weights = floats.data() + 2 * vectors;
             float* const bias = weights + 2 * rows;
             float* const distance = bias + 2 * rows;
             const BiasedAttentionScratch scratch{
                 {floats.data(), floats.data() + vectors, weights, weights + rows, words.data()},
                 bias, bias + rows, buckets.data(), distance, distance + distances, size.longest};
             for (RowRange taken; next(taken);) {
               for (std::int64_t i = taken.begin; i < taken.end; ++i) {
                 kernel(static_cast<std::size_t>(i), scratch);
               }
             }
           });
}

// out = the sums of all parts, `stride` apart.
void add_sums(const std::vector<double>& parts, std::size_t first, std::size_t stride, float* out,
              std::int64_t n) {
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    double sum = 0.0;
    for (std::size_t at = first; at < parts.size(); at += stride) sum += parts[at + i];
    out[i] = static_cast<float>(sum);
  }
}

// Whole sequences with about equally many tokens, the same whatever the number of threads: each part
// has sums of its own over its tokens.
std::vector<RowRange> token_parts(const std::int64_t* indptr, std::int64_t n_sequences) {
  constexpr std::int64_t kPartTokens = 320, kMostParts = 16;
  const std::int64_t n_tokens = indptr[n_sequences];
  const std::int64_t n_parts =
      std::max<std::int64_t>(1, std::min(kMostParts, n_tokens / kPartTokens));
  std::vector<RowRange> parts;
  std::int64_t begin = 0;
  for (std::int64_t part = 1; part <= n_parts && begin < n_sequences; ++part) {
    std::int64_t end = part == n_parts ? n_sequences : begin;
    while (end < n_sequences && indptr[end] < n_tokens * part / n_parts) ++end;
    if (end > begin) parts.push_back({begin, end});
    begin = end;
  }
  return parts;
}

struct BlockSize {
  std::int64_t tokens, longest;  // of a chunk, of a sequence
};

BlockSize block_size(const SasrecBlockArgs& args) {
  BlockSize size{kChunkTokens, 0};
  for (std::int64_t b = 0; b < args.n_sequences; ++b) {
    size.longest = std::max(size.longest, args.indptr[b + 1] - args.indptr[b]);
  }
  size.tokens = std::max(size.tokens, size.longest);
  return size;
}

// The states of one chunk, in scratch memory.
BlockStates states_of_chunk(float* memory, std::int64_t n, std::int64_t d, std::int64_t heads) {
  float* rest = memory + 8 * n * d;
  return {memory,         memory + n * d, memory + 2 * n * d, memory + 3 * n * d,
          memory + 4 * n * d, memory + 5 * n * d, rest,       rest + 2 * n,
          rest + 4 * n,   rest + 4 * n + heads * n, nullptr};
}

// Calls kernel(args, rows, part, scratch) for all parts.
template <class Kernel>
void run_block(const SasrecBlockArgs& args, bool backward, int n_threads, const Kernel& kernel) {
  const std::vector<RowRange> parts = token_parts(args.indptr, args.n_sequences);
  const BlockSize size = block_size(args);
  const std::int64_t d = args.width, n = size.tokens;
  const std::int64_t padded = (size.longest + kKeyPadding - 1) / kKeyPadding * kKeyPadding;
  const double tokens = static_cast<double>(args.indptr[args.n_sequences]);
  const double operations = (backward ? 24.0 : 12.0) * tokens * static_cast<double>(d * d);
  for_rows(static_cast<std::int64_t>(parts.size()), threads_for(operations, n_threads),
           [&](const NextRows& next) {
             const std::int64_t attention = 2 * (d + kQueries) * padded;
             const std::int64_t states = args.keep ? 0 : (8 * d + 4 + 2 * args.n_heads) * n;
             const std::int64_t own = backward ? 7 * n * d : 6 * d * d + states;
             std::vector<std::uint32_t> words(
                 static_cast<std::size_t>(kQueries * padded + kWordsSlack));
             std::vector<std::int64_t> indptr(static_cast<std::size_t>(args.n_sequences + 1));
             float* keys = kept_scratch(attention + own);
             float* values = keys + d * padded;
             float* weights = values + d * padded;
             float* memory = keys + attention;
             const SasrecBlockScratch scratch{
                 {keys, values, weights, weights + kQueries * padded, words.data()},
                 memory, indptr.data(), memory};
             SasrecBlockArgs here = args;
             if (!args.keep) here.states = states_of_chunk(memory + 6 * d * d, n, d, args.n_heads);
             for (RowRange taken; next(taken);) {
               for (std::int64_t part = taken.begin; part < taken.end; ++part) {
                 kernel(here, parts[static_cast<std::size_t>(part)], part, scratch);
               }
             }
           });
}

}  // namespace

void packed_dropout(const PackedDropoutArgs& args, int n_threads) {
  // A word of the generator takes about 25 operations.
  const double operations =
      25.0 * static_cast<double>(args.indptr[args.n_sequences] * args.width);
  run(args, args.n_sequences, threads_for(operations, n_threads), current().load()->packed_dropout);
}

void attention_pooling(const AttentionPoolingArgs& args, int n_threads) {
  std::int64_t longest = 0;
  for (std::int64_t b = 0; b < args.n_sequences; ++b) {
    longest = std::max(longest, args.indptr[b + 1] - args.indptr[b]);
  }
  const auto lanes =
      static_cast<std::size_t>((longest + kKeyPadding - 1) / kKeyPadding * kKeyPadding);
  const double operations = 4.0 * static_cast<double>(args.n_heads * args.width) *
                            static_cast<double>(args.indptr[args.n_sequences]);
  for_rows(args.n_sequences, threads_for(operations, n_threads), [&](const NextRows& next) {
    std::vector<float> weights(lanes);
    for (RowRange rows; next(rows);) {
      current().load()->attention_pooling(args, rows.begin, rows.end, weights.data());
    }
  });
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

void biased_attention(const BiasedAttentionArgs& args, float* out, int n_threads) {
  const KernelTable* table = current().load();
  std::vector<RowRange> sequences;
  for (std::int64_t b = 0; b < args.attention.n_sequences; ++b) sequences.push_back({b, b + 1});
  run_biased_attention(args, sequences, 2, n_threads,
                       [&](std::size_t i, const BiasedAttentionScratch& scratch) {
                         table->biased_attention(args, out, sequences[i].begin, sequences[i].end,
                                                 scratch);
                       });
}

void biased_attention_backward(const BiasedAttentionArgs& args,
                               const PackedAttentionGradients& gradients, float* grad_distance,
                               float* grad_time, int n_threads) {
  const KernelTable* table = current().load();
  const AttentionBiases& biases = args.biases;
  const std::vector<RowRange> parts =
      token_parts(args.attention.indptr, args.attention.n_sequences);
  const auto n_distances = static_cast<std::size_t>(biases.n_distances);
  const auto of_part = n_distances + static_cast<std::size_t>(biases.n_begins);
  std::vector<double> sums(parts.size() * of_part);
  run_biased_attention(args, parts, 5, n_threads,
                       [&](std::size_t i, const BiasedAttentionScratch& scratch) {
                         double* const own = sums.data() + i * of_part;
                         table->biased_attention_backward(args, gradients,
                                                          {own, own + n_distances}, parts[i].begin,
                                                          parts[i].end, scratch);
                       });
  add_sums(sums, 0, of_part, grad_distance, biases.n_distances);
  add_sums(sums, n_distances, of_part, grad_time, biases.n_begins);
}

void sasrec_block(const SasrecBlockArgs& args, float* out, int n_threads) {
  const KernelTable* table = current().load();
  run_block(args, false, n_threads,
            [&](const SasrecBlockArgs& here, RowRange rows, std::int64_t,
                const SasrecBlockScratch& scratch) {
              table->sasrec_block(here, out, rows.begin, rows.end, scratch);
            });
}

void sasrec_block_backward(const SasrecBlockArgs& args, const float* grad_out, float* grad_x,
                           float* gradients, int n_threads) {
  const KernelTable* table = current().load();
  const std::size_t n_parts = token_parts(args.indptr, args.n_sequences).size();
  const auto size = static_cast<std::size_t>(block_parameters_size(args.width));
  static thread_local std::vector<float> of_parts;  // kept as well
  of_parts.assign(n_parts * size, 0.0f);
  float* const first = of_parts.data();
  run_block(args, true, n_threads,
            [&](const SasrecBlockArgs& here, RowRange rows, std::int64_t part,
                const SasrecBlockScratch& scratch) {
              float* memory = first + static_cast<std::size_t>(part) * size;
              const SasrecBlockGradients to{grad_out, grad_x,
                                            block_parameters(memory, args.width)};
              table->sasrec_block_backward(here, to, rows.begin, rows.end, scratch);
            });
  std::fill(gradients, gradients + size, 0.0f);
  for (std::size_t part = 0; part < n_parts; ++part) {
    for (std::size_t i = 0; i < size; ++i) gradients[i] += of_parts[part * size + i];
  }
}

std::int64_t block_parameters_size(std::int64_t width) { return (6 * width + 10) * width; }

BlockParameters<float> block_parameters(float* memory, std::int64_t d) {
  BlockParameters<float> p{};
  const auto take = [&memory](std::int64_t size) {
    float* const at = memory;
    memory += size;
    return at;
  };
  p.query_gain = take(d);
  p.query_shift = take(d);
  p.in_weight = take(3 * d * d);
  p.in_bias = take(3 * d);
  p.out_weight = take(d * d);
  p.out_bias = take(d);
  p.gain = take(d);
  p.shift = take(d);
  p.hidden_weight = take(d * d);
  p.hidden_bias = take(d);
  p.last_weight = take(d * d);
  p.last_bias = take(d);
  return p;
}

}  // namespace pdrec
