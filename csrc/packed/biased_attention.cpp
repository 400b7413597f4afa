#include "packed/biased_attention.hpp"

#include <cmath>
#include <cstring>

#include "packed/_attention_tiles.hpp"

namespace pdrec::PDREC_ISA {
namespace {

// Starts from the bucket of the pair before: times of a sequence ascend, so that most are its own
// or the next. Any other table and order of times is found as well.
std::int64_t bucket_of(double between, const AttentionBiases& biases, std::int64_t bucket) {
  while (bucket > 0 && between < biases.begins[bucket]) --bucket;
  while (bucket + 1 < biases.n_begins && between >= biases.begins[bucket + 1]) ++bucket;
  return bucket;
}

// Of the tile's queries and the keys that each sees, in all heads.
void find_biases(const AttentionBiases& biases, const Head& head, const QueryTile& tile,
                 const BiasedAttentionScratch& scratch) {
  std::int64_t bucket = 0;
  for (std::int64_t i = 0; i < tile.count; ++i) {
    const std::int64_t query = tile.begin + i;
    float* row = scratch.bias + i * head.padded;
    std::memcpy(row, scratch.distance + scratch.longest - 1 - query,
                4 * static_cast<std::size_t>(tile.n_lanes));
    if (!biases.time) continue;
    const double* times = biases.times + head.first;
    std::int32_t* buckets = scratch.buckets + i * head.padded;
    for (std::int64_t j = 0; j <= query; ++j) {
      bucket = bucket_of(std::fabs(times[query] - times[j]), biases, bucket);
      buckets[j] = static_cast<std::int32_t>(bucket);
      row[j] += biases.time[bucket];
    }
  }
}

// The largest distance first; those of later keys, which nobody reads, are 0.
void reverse_distances(const AttentionBiases& biases, const BiasedAttentionScratch& scratch) {
  std::memset(scratch.distance, 0,
              4 * static_cast<std::size_t>(scratch.longest + kDistanceSlack));
  if (!biases.distance) return;
  for (std::int64_t d = 0; d < scratch.longest; ++d) {
    scratch.distance[scratch.longest - 1 - d] =
        biases.distance[d < biases.n_distances ? d : biases.n_distances - 1];
  }
}

void add_bias(float* scores, const float* bias, float scale, std::int64_t n_lanes) {
  for (std::int64_t j = 0; j < n_lanes; j += kVector) {
    store(load(scores + j) * scale + load(bias + j), scores + j);
  }
}

// The logistic function at a score and at its negative.
struct Sigmoid {
  explicit Sigmoid(const Vector& score) {
    const Vector small = exp_negative(score > 0.0f ? -score : score);
    const Vector larger = 1.0f / (1.0f + small);
    of_score = score > 0.0f ? larger : small * larger;
    of_negative = score > 0.0f ? small * larger : larger;
  }
  Vector of_score, of_negative;
};

// Scores of one query, `seen` of them real -> weights.
void gate(float* weights, std::int64_t seen, std::int64_t n_lanes) {
  const float share = 1.0f / static_cast<float>(seen);
  for (std::int64_t j = 0; j < n_lanes; j += kVector) {
    const Vector score = load(weights + j);
    store(score * Sigmoid(score).of_score * share, weights + j);
  }
  fill(weights, seen, n_lanes, 0.0f);
}

// Of one query: scores -> weights, and the gradient of those -> of the scores.
void differentiate_gate(float* weights, float* gradients, std::int64_t seen,
                        std::int64_t n_lanes) {
  const float share = 1.0f / static_cast<float>(seen);
  for (std::int64_t j = 0; j < n_lanes; j += kVector) {
    const Vector score = load(weights + j);
    const Sigmoid sigmoid(score);
    const Vector silu = score * sigmoid.of_score;
    store(silu * share, weights + j);
    const Vector slope = sigmoid.of_score + silu * sigmoid.of_negative;
    store(load(gradients + j) * share * slope, gradients + j);
  }
  fill(weights, seen, n_lanes, 0.0f);
  fill(gradients, seen, n_lanes, 0.0f);
}

// Adds the gradient of one query's scores to that of their biases, and scales it to the products'.
void collect(float* gradients, float* grad_bias, float scale, std::int64_t n_lanes) {
  for (std::int64_t j = 0; j < n_lanes; j += kVector) {
    const Vector gradient = load(gradients + j);
    store(load(grad_bias + j) + gradient, grad_bias + j);
    store(gradient * scale, gradients + j);
  }
}

// From the tile's pairs to the sums; those of a row first, so that long sums lose no digits.
void sum_tile(const AttentionBiases& biases, const Head& head, const QueryTile& tile,
              const BiasSums& sums, const BiasedAttentionScratch& scratch) {
  for (std::int64_t i = 0; i < tile.count; ++i) {
    const std::int64_t query = tile.begin + i;
    const float* row = scratch.grad_bias + i * head.padded;
    float* distance = scratch.grad_distance + scratch.longest - 1 - query;
    for (std::int64_t j = 0; j < tile.n_lanes; j += kVector) {
      store(load(distance + j) + load(row + j), distance + j);
    }
    if (!biases.time) continue;
    const std::int32_t* buckets = scratch.buckets + i * head.padded;
    std::int32_t bucket = buckets[0];
    float sum = 0.0f;
    for (std::int64_t j = 0; j <= query; ++j) {
      if (buckets[j] != bucket) {
        sums.time[bucket] += sum;
        bucket = buckets[j];
        sum = 0.0f;
      }
      sum += row[j];
    }
    sums.time[bucket] += sum;
  }
}

void sum_distances(const AttentionBiases& biases, std::int64_t length, const BiasSums& sums,
                   const BiasedAttentionScratch& scratch) {
  if (!biases.distance) return;
  for (std::int64_t d = 0; d < length; ++d) {
    sums.distance[d < biases.n_distances ? d : biases.n_distances - 1] +=
        scratch.grad_distance[scratch.longest - 1 - d];
  }
}

float scale_of(const BiasedAttentionArgs& args) {
  return args.pointwise ? 1.0f : 1.0f / std::sqrt(static_cast<float>(args.attention.width));
}

// The weights of one head's tile, and what it attends to.
void attend_tile(const BiasedAttentionArgs& args, const Head& head, const QueryTile& tile,
                 float* out, const BiasedAttentionScratch& scratch) {
  const PackedAttentionArgs& all = args.attention;
  const std::int64_t out_row = all.n_heads * all.width;
  const PackedAttentionScratch& memory = scratch.tile;
  const float* keys = memory.keys + head.index * all.width * head.padded;
  if (all.dropout.keep_from) draw_words(all.dropout, head, tile, memory.words);
  dot_products(head.tokens(all.q), all.q.token, keys, head, tile, all.width, memory.weights);
  for (std::int64_t i = 0; i < tile.count; ++i) {
    const std::int64_t query = tile.begin + i;
    float* weights = memory.weights + i * head.padded;
    add_bias(weights, scratch.bias + i * head.padded, scale_of(args), tile.n_lanes);
    if (args.pointwise) {
      gate(weights, query + 1, tile.n_lanes);
    } else {
      attend(all, (head.first + query) * all.n_heads + head.index, query + 1, tile.n_lanes,
             memory.words + i * head.words_row, 1.0f, weights);
    }
  }
  add_product({{memory.weights, head.padded, 1},
               {head.tokens(all.v), all.v.token},
               out + (head.first + tile.begin) * out_row + head.index * all.width,
               out_row, tile.count, all.width, tile.n_keys});
}

void differentiate_tile(const BiasedAttentionArgs& args, const PackedAttentionGradients& gradients,
                        const Head& head, const QueryTile& tile,
                        const BiasedAttentionScratch& scratch) {
  const PackedAttentionArgs& all = args.attention;
  const PackedAttentionScratch& memory = scratch.tile;
  const std::int64_t width = all.width, transposed = head.index * width * head.padded;
  const float scale = scale_of(args);
  if (all.dropout.keep_from) draw_words(all.dropout, head, tile, memory.words);
  dot_products(head.tokens(all.q), all.q.token, memory.keys + transposed, head, tile, width,
               memory.weights);
  dot_products(head.tokens(gradients.grad_out), gradients.grad_out.token,
               memory.values + transposed, head, tile, width, memory.gradients);
  for (std::int64_t i = 0; i < tile.count; ++i) {
    const std::int64_t query = tile.begin + i;
    float* weights = memory.weights + i * head.padded;
    float* of_scores = memory.gradients + i * head.padded;
    add_bias(weights, scratch.bias + i * head.padded, scale, tile.n_lanes);
    if (args.pointwise) {
      differentiate_gate(weights, of_scores, query + 1, tile.n_lanes);
    } else {
      differentiate(all, (head.first + query) * all.n_heads + head.index, query + 1, tile.n_lanes,
                    memory.words + i * head.words_row, 1.0f, weights, of_scores);
    }
    collect(of_scores, scratch.grad_bias + i * head.padded, scale, tile.n_lanes);
  }
  const std::int64_t out_row = gradients.token;
  const std::int64_t offset = head.first * out_row + head.index * width;
  add_product({{memory.gradients, head.padded, 1},
               {head.tokens(all.k), all.k.token},
               gradients.grad_q + offset + tile.begin * out_row,
               out_row, tile.count, width, tile.n_keys});
  add_product({{memory.gradients, 1, head.padded},
               {head.tokens(all.q) + tile.begin * all.q.token, all.q.token},
               gradients.grad_k + offset,
               out_row, tile.n_keys, width, tile.count});
  add_product({{memory.weights, 1, head.padded},
               {head.tokens(gradients.grad_out) + tile.begin * gradients.grad_out.token,
                gradients.grad_out.token},
               gradients.grad_v + offset,
               out_row, tile.n_keys, width, tile.count});
}

// The vectors of all heads of a sequence, one head after another.
void transpose_heads(const PackedAttentionArgs& all, const HeadsView& view, std::int64_t sequence,
                     float* columns) {
  for (std::int64_t h = 0; h < all.n_heads; ++h) {
    const Head head(all, sequence * all.n_heads + h);
    transpose(head.tokens(view), view.token, head, all.width,
              columns + h * all.width * head.padded);
  }
}

}  // namespace

void biased_attention(const BiasedAttentionArgs& args, float* out, std::int64_t begin,
                      std::int64_t end, const BiasedAttentionScratch& scratch) {
  const PackedAttentionArgs& all = args.attention;
  const std::int64_t out_row = all.n_heads * all.width;
  reverse_distances(args.biases, scratch);
  for (std::int64_t sequence = begin; sequence < end; ++sequence) {
    const Head first_head(all, sequence * all.n_heads);
    transpose_heads(all, all.k, sequence, scratch.tile.keys);
    fill_zero(out + first_head.first * out_row, out_row, first_head.length, out_row);
    for (std::int64_t first = 0; first < first_head.length; first += kQueries) {
      const QueryTile tile = query_tile(first_head, first);
      find_biases(args.biases, first_head, tile, scratch);
      for (std::int64_t h = 0; h < all.n_heads; ++h) {
        attend_tile(args, Head(all, sequence * all.n_heads + h), tile, out, scratch);
      }
    }
  }
}

void biased_attention_backward(const BiasedAttentionArgs& args,
                               const PackedAttentionGradients& gradients, const BiasSums& sums,
                               std::int64_t begin, std::int64_t end,
                               const BiasedAttentionScratch& scratch) {
  const PackedAttentionArgs& all = args.attention;
  const std::int64_t out_row = gradients.token;
  reverse_distances(args.biases, scratch);
  for (std::int64_t sequence = begin; sequence < end; ++sequence) {
    const Head first_head(all, sequence * all.n_heads);
    const std::int64_t length = first_head.length;
    transpose_heads(all, all.k, sequence, scratch.tile.keys);
    transpose_heads(all, all.v, sequence, scratch.tile.values);
    const std::int64_t offset = first_head.first * out_row;
    fill_zero(gradients.grad_q + offset, out_row, length, out_row);
    fill_zero(gradients.grad_k + offset, out_row, length, out_row);
    fill_zero(gradients.grad_v + offset, out_row, length, out_row);
    fill(scratch.grad_distance, 0, scratch.longest + kDistanceSlack, 0.0f);
    for (std::int64_t first = 0; first < length; first += kQueries) {
      const QueryTile tile = query_tile(first_head, first);
      find_biases(args.biases, first_head, tile, scratch);
      fill_zero(scratch.grad_bias, first_head.padded, tile.count, tile.n_lanes);
      for (std::int64_t h = 0; h < all.n_heads; ++h) {
        differentiate_tile(args, gradients, Head(all, sequence * all.n_heads + h), tile, scratch);
      }
      sum_tile(args.biases, first_head, tile, sums, scratch);
    }
    sum_distances(args.biases, length, sums, scratch);
  }
}

}  // namespace pdrec::PDREC_ISA
