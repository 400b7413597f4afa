// One query tile at a time of causal attention within packed sequences: what `packed_attention` and
// `biased_attention` share.
#pragma once

#include <cstdint>
#include <cstring>

#include "counter_rng.hpp"
#include "lanes.hpp"
#include "packed/_small_product.hpp"
#include "packed/_softmax.hpp"
#include "packed/packed_attention.hpp"

namespace pdrec::PDREC_ISA {
namespace {

// One head of one sequence.
struct Head {
  Head(const PackedAttentionArgs& args, std::int64_t row)
      : sequence(row / args.n_heads),
        index(row % args.n_heads),
        first(args.indptr[sequence]),
        length(args.indptr[sequence + 1] - first),
        padded((length + kKeyPadding - 1) / kKeyPadding * kKeyPadding),
        words_row((length + 3) / 4 * 4) {}

  const float* tokens(const HeadsView& view) const {
    return view.data + first * view.token + index * view.head;
  }

  std::int64_t sequence, index, first, length;
  std::int64_t padded;     // a row of scratch
  std::int64_t words_row;  // a row of random words
};

// Queries [begin, begin + count) of a head, and the keys that any of them sees.
struct QueryTile {
  std::int64_t begin, count, n_keys;
  std::int64_t n_lanes;  // n_keys rounded up to whole groups of partial sums
};

inline QueryTile query_tile(const Head& head, std::int64_t begin) {
  const std::int64_t left = head.length - begin;
  const std::int64_t count = left < kQueries ? left : kQueries;
  const std::int64_t n_keys = begin + count;
  return {begin, count, n_keys, (n_keys + kPartialSums - 1) / kPartialSums * kPartialSums};
}

inline void fill_zero(float* rows, std::int64_t stride, std::int64_t n_rows, std::int64_t width) {
  for (std::int64_t i = 0; i < n_rows; ++i) std::memset(rows + i * stride, 0, 4 * width);
}

inline void transpose(const float* rows, std::int64_t stride, const Head& head, std::int64_t width,
               float* columns) {
  for (std::int64_t j = 0; j < head.length; ++j) {
    for (std::int64_t d = 0; d < width; ++d) columns[d * head.padded + j] = rows[j * stride + d];
  }
}

// The words of the tile's rows, 4 ceil(L / 4) to a row; those of keys that come later than a
// query may be missing.
inline void draw_words(const SequenceDropout& dropout, const Head& head, const QueryTile& tile,
                std::uint32_t* words) {
  const PhiloxStream id{dropout.seed, static_cast<std::uint32_t>(dropout.users[head.sequence]),
                        dropout.epoch, dropout.stream};
  const std::int64_t blocks = head.words_row / 4;
  const std::int64_t first = (head.index * head.length + tile.begin) * blocks;
  std::int64_t drawn = 0;
  for (std::int64_t i = 0; i < tile.count; ++i) {
    if (drawn < i * blocks) drawn = i * blocks;
    for (; drawn <= i * blocks + (tile.begin + i) / 4; drawn += kLanes) {
      philox_words(id, static_cast<std::uint32_t>(first + drawn), words + 4 * drawn);
    }
  }
}

// scores[i, j] = a_i . b_j for the tile's queries and all keys that it sees.
inline void dot_products(const float* a, std::int64_t a_row, const float* transposed, const Head& head,
                  const QueryTile& tile, std::int64_t width, float* scores) {
  fill_zero(scores, head.padded, tile.count, tile.n_lanes);
  add_product({{a + tile.begin * a_row, a_row, 1},
               {transposed, head.padded},
               scores,
               head.padded,
               tile.count,
               tile.n_lanes,
               width});
}

// Scores of one query, `seen` of them real -> weights after dropout; keeps what the gradient needs.
inline void attend(const PackedAttentionArgs& args, std::int64_t at, std::int64_t seen,
            std::int64_t n_lanes, const std::uint32_t* words, float scale, float* weights) {
  fill(weights, seen, n_lanes, -kInfinity);
  const float maximum = largest(weights, n_lanes);
  const float inverse = 1.0f / exponentials(weights, maximum, scale, n_lanes);
  args.maximum[at] = maximum;
  args.inverse[at] = inverse;
  const float factor = inverse * args.dropout.keep_scale;
  for (std::int64_t j = 0; j < n_lanes; j += kVector) {
    const Vector weight = load(weights + j) * factor;
    store(load(words + j) >= args.dropout.keep_from ? weight : Vector{}, weights + j);
  }
}

// Of one query: scores -> weights after dropout, and the gradient of those -> of the scores.
inline void differentiate(const PackedAttentionArgs& args, std::int64_t at, std::int64_t seen,
                   std::int64_t n_lanes, const std::uint32_t* words, float scale, float* weights,
                   float* gradients) {
  fill(weights, seen, n_lanes, -kInfinity);
  fill(gradients, seen, n_lanes, 0.0f);
  exponentials(weights, args.maximum[at], scale, n_lanes);
  const float inverse = args.inverse[at];
  const Vector keep_scale = broadcast(args.dropout.keep_scale);
  Vector sums[kParts] = {};
  for (std::int64_t j = 0; j < n_lanes; j += kPartialSums) {
    for (int part = 0; part < kParts; ++part) {
      const std::int64_t at_part = j + part * kVector;
      const Vector weight = load(weights + at_part) * inverse;
      const Vector keep = load(words + at_part) >= args.dropout.keep_from ? keep_scale : Vector{};
      const Vector gradient = load(gradients + at_part) * keep;
      sums[part] += weight * gradient;
      store(weight, weights + at_part);
      store(gradient, gradients + at_part);
    }
  }
  // The product of the output and its gradient would be the same sum, but rounded otherwise, and
  // what ought to cancel below would not.
  const float mean = total(sums);
  for (std::int64_t j = 0; j < n_lanes; j += kVector) {
    const Vector weight = load(weights + j);
    const Vector keep = load(words + j) >= args.dropout.keep_from ? keep_scale : Vector{};
    store(weight * keep, weights + j);
    store(weight * (load(gradients + j) - mean) * scale, gradients + j);
  }
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
