#include "packed/sasrec_block.hpp"

#include "counter_rng.hpp"
#include "packed/_columns.hpp"
#include "packed/_norm.hpp"
#include "products.hpp"

namespace pdrec::PDREC_ISA {
namespace {

// Sequences [begin, end) as a batch of their own: pointers are to its first token.
struct Chunk {
  Chunk(const SasrecBlockArgs& args, std::int64_t begin, std::int64_t end, std::int64_t* offsets)
      : width(args.width),
        n_sequences(end - begin),
        first(args.indptr[begin]),
        n_tokens(args.indptr[end] - first),
        indptr(offsets),
        dropout(args.dropout),
        x(args.x + first * width),
        s(args.states) {
    dropout.users += begin;
    for (std::int64_t b = 0; b <= n_sequences; ++b) offsets[b] = args.indptr[begin + b] - first;
    if (!args.keep) return;
    s.queries += first * width;
    s.attended += first * width;
    s.total += first * width;
    s.normed += first * width;
    s.hidden += first * width;
    s.projected += 3 * first * width;
    s.query_statistics += 2 * first;
    s.forward_statistics += 2 * first;
    s.maximum += first * args.n_heads;
    s.inverse += first * args.n_heads;
    if (s.kept) s.kept += first * width;
  }

  SequenceDropout stream(std::uint32_t offset) const {
    SequenceDropout result = dropout;
    result.stream += offset;
    return result;
  }

  PackedAttentionArgs attention(const SasrecBlockArgs& args) const {
    const std::int64_t token = 3 * width, head = width / args.n_heads;
    return {n_sequences,
            args.n_heads,
            head,
            indptr,
            {s.projected, token, head},
            {s.projected + width, token, head},
            {s.projected + 2 * width, token, head},
            dropout,
            s.maximum,
            s.inverse};
  }

  std::int64_t width, n_sequences, first, n_tokens;
  const std::int64_t* indptr;
  SequenceDropout dropout;
  const float* x;
  BlockStates s;
};

// x -> max(dropout(x), 0), or residual + dropout(x) where that is given.
struct DropoutInPlace {
  float* x;
  const float* residual;
  std::uint8_t* kept;  // or null
};

inline float dropped(const DropoutInPlace& at, std::int64_t i, float value) {
  if (at.residual) return at.residual[i] + value;
  return value < 0.0f ? 0.0f : value;  // as written, NaN stays NaN
}

inline void drop_words(const SequenceDropout& dropout, const std::uint32_t* words,
                       std::int64_t begin, std::int64_t count, const DropoutInPlace& to) {
  std::int64_t i = 0;
  for (; i + kVector <= count; i += kVector) {
    float* x = to.x + begin + i;
    const Vector scaled = load(x) * dropout.keep_scale;
    const Vector value = load(words + i) >= dropout.keep_from ? scaled : Vector{};
    store(to.residual ? load(to.residual + begin + i) + value
                      : (value < 0.0f ? Vector{} : value), x);
  }
  for (; i < count; ++i) {
    const float value =
        words[i] >= dropout.keep_from ? to.x[begin + i] * dropout.keep_scale : 0.0f;
    to.x[begin + i] = dropped(to, begin + i, value);
  }
  if (to.kept) {
    for (i = 0; i < count; ++i) to.kept[begin + i] = words[i] >= dropout.keep_from;
  }
}

void drop(const Chunk& chunk, const SequenceDropout& dropout, const DropoutInPlace& to) {
  std::uint32_t words[kWordsPerCall] = {};
  for (std::int64_t row = 0; row < chunk.n_sequences; ++row) {
    const PhiloxStream id{dropout.seed, static_cast<std::uint32_t>(dropout.users[row]),
                          dropout.epoch, dropout.stream};
    const std::int64_t begin = chunk.indptr[row] * chunk.width;
    const std::int64_t size = chunk.indptr[row + 1] * chunk.width - begin;
    for (std::int64_t first = 0; first < size; first += kWordsPerCall) {
      if (dropout.keep_from) philox_words(id, static_cast<std::uint32_t>(first / 4), words);
      const std::int64_t left = size - first;
      drop_words(dropout, words, begin + first, left < kWordsPerCall ? left : kWordsPerCall, to);
    }
  }
}

// What came through dropout, or through dropout and ReLU.
struct Passed {
  const std::uint8_t* kept;  // or null:
  const float* rectified;    // what passed is positive here; or null: all
  float scale;
};

inline Columns before(const Passed& passed, const float* grad, std::int64_t at,
                      std::int64_t left) {
  Columns result = load_columns(grad + at, left);
  if (passed.kept) {
    std::uint32_t kept[kPartialSums] = {};
    const std::int64_t count = left < kPartialSums ? left : kPartialSums;
    for (std::int64_t i = 0; i < count; ++i) kept[i] = passed.kept[at + i];
    for (int i = 0; i < kParts; ++i) {
      result.part[i] =
          load(kept + i * kVector) > 0 ? result.part[i] * passed.scale : Vector{};
    }
  } else if (passed.rectified) {
    const Columns rectified = load_columns(passed.rectified + at, left);
    for (int i = 0; i < kParts; ++i) {
      result.part[i] = rectified.part[i] > 0.0f ? result.part[i] * passed.scale : Vector{};
    }
  }
  return result;
}

// grad [n_tokens, width] -> the gradient of what was dropped, and its sum added to grad_bias.
void undrop(std::int64_t n_tokens, std::int64_t width, const Passed& passed, const float* grad,
            float* out, float* grad_bias) {
  for (std::int64_t token = 0; token < n_tokens; ++token) {
    for (std::int64_t j = 0; j < width; j += kPartialSums) {
      const std::int64_t at = token * width + j, left = width - j;
      const Columns result = before(passed, grad, at, left);
      if (out) store_columns(result, out + at, left);
      add_columns(result, grad_bias + j, left);
    }
  }
}

// [rows, columns] -> [columns, rows].
void transpose(const float* matrix, std::int64_t rows, std::int64_t columns, float* out) {
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) out[j * rows + i] = matrix[i * columns + j];
  }
}

// The weights [out, in] as [in, out], one after another.
struct Transposed {
  Transposed(const BlockParameters<const float>& p, std::int64_t d, float* memory)
      : q(memory), kv(q + d * d), out(kv + 2 * d * d), hidden(out + d * d), last(hidden + d * d) {
    transpose(p.in_weight, d, d, memory);
    transpose(p.in_weight + d * d, 2 * d, d, memory + d * d);
    transpose(p.out_weight, d, d, memory + 3 * d * d);
    transpose(p.hidden_weight, d, d, memory + 4 * d * d);
    transpose(p.last_weight, d, d, memory + 5 * d * d);
  }

  const float *q, *kv, *out, *hidden, *last;
};

void forward(const SasrecBlockArgs& args, const Chunk& chunk, const Transposed& weights,
             float* out, const PackedAttentionScratch& scratch) {
  const BlockParameters<const float>& p = args.parameters;
  const BlockStates& s = chunk.s;
  const std::int64_t n = chunk.n_tokens, d = chunk.width;
  normalise({n, d, args.eps, p.query_gain, p.query_shift}, chunk.x, nullptr, s.queries,
            s.query_statistics);
  layer(s.queries, d, n, weights.q, d, d, p.in_bias, s.projected, 3 * d);
  layer(chunk.x, d, n, weights.kv, d, 2 * d, p.in_bias + d, s.projected + d, 3 * d);
  packed_attention(chunk.attention(args), s.attended, 0, chunk.n_sequences * args.n_heads,
                   scratch);
  layer(s.attended, d, n, weights.out, d, d, p.out_bias, s.total, d);
  normalise({n, d, args.eps, p.gain, p.shift}, s.queries, s.total, s.normed,
            s.forward_statistics);
  layer(s.normed, d, n, weights.hidden, d, d, p.hidden_bias, s.hidden, d);
  drop(chunk, chunk.stream(1), {s.hidden, nullptr, nullptr});
  layer(s.hidden, d, n, weights.last, d, d, p.last_bias, out, d);
  drop(chunk, chunk.stream(2), {out, s.normed, s.kept});
}

void backward(const SasrecBlockArgs& args, const Chunk& chunk, const float* grad_out,
              float* grad_x, const BlockParameters<float>& g, const SasrecBlockScratch& scratch) {
  const BlockParameters<const float>& p = args.parameters;
  const BlockStates& s = chunk.s;
  const std::int64_t n = chunk.n_tokens, d = chunk.width;
  const float scale = args.dropout.keep_scale;
  float* grad_hidden = scratch.gradients;
  float* grad_normed = grad_hidden + n * d;
  float* grad_total = grad_normed + n * d;
  float* grad_projected = grad_total + n * d;  // [n, 3 d]
  float* grad_last = grad_projected;           // until that is needed

  undrop(n, d, {s.kept, nullptr, scale}, grad_out, grad_last, g.last_bias);
  layer_gradient(grad_last, d, s.hidden, n, d, d, g.last_weight);
  layer(grad_last, d, n, p.last_weight, d, d, nullptr, grad_hidden, d);
  undrop(n, d, {nullptr, s.hidden, scale}, grad_hidden, grad_hidden, g.hidden_bias);
  layer_gradient(grad_hidden, d, s.normed, n, d, d, g.hidden_weight);
  layer(grad_hidden, d, n, p.hidden_weight, d, d, nullptr, grad_normed, d);
  norm_gradient({n, d, args.eps, p.gain, p.shift}, grad_normed, grad_out, s.total,
                s.forward_statistics, false, grad_total, {g.gain, g.shift, g.out_bias});
  layer_gradient(grad_total, d, s.attended, n, d, d, g.out_weight);
  float* grad_attended = grad_normed;
  layer(grad_total, d, n, p.out_weight, d, d, nullptr, grad_attended, d);
  packed_attention_backward(
      chunk.attention(args),
      {{grad_attended, d, d / args.n_heads}, 3 * d, grad_projected, grad_projected + d,
       grad_projected + 2 * d},
      0, chunk.n_sequences * args.n_heads, scratch.attention);
  undrop(n, 3 * d, {nullptr, nullptr, 1.0f}, grad_projected, nullptr, g.in_bias);
  layer_gradient(grad_projected, 3 * d, s.queries, n, d, d, g.in_weight);
  layer_gradient(grad_projected + d, 3 * d, chunk.x, n, 2 * d, d, g.in_weight + d * d);
  float* grad_queries = grad_hidden;
  layer(grad_projected, 3 * d, n, p.in_weight, d, d, nullptr, grad_queries, d);
  layer(grad_projected + d, 3 * d, n, p.in_weight + d * d, 2 * d, d, nullptr, grad_x, d);
  norm_gradient({n, d, args.eps, p.query_gain, p.query_shift}, grad_queries, grad_total, chunk.x,
                s.query_statistics, true, grad_x, {g.query_gain, g.query_shift, nullptr});
}

}  // namespace

void sasrec_block(const SasrecBlockArgs& args, float* out, std::int64_t begin, std::int64_t end,
                  const SasrecBlockScratch& scratch) {
  const Transposed weights(args.parameters, args.width, scratch.weights);
  while (begin < end) {
    const std::int64_t stop = chunk_end(args.indptr, begin, end);
    const Chunk chunk(args, begin, stop, scratch.indptr);
    forward(args, chunk, weights, out + chunk.first * args.width, scratch.attention);
    begin = stop;
  }
}

void sasrec_block_backward(const SasrecBlockArgs& args, const SasrecBlockGradients& gradients,
                           std::int64_t begin, std::int64_t end,
                           const SasrecBlockScratch& scratch) {
  while (begin < end) {
    const std::int64_t stop = chunk_end(args.indptr, begin, end);
    const Chunk chunk(args, begin, stop, scratch.indptr);
    const std::int64_t at = chunk.first * args.width;
    backward(args, chunk, gradients.grad_out + at, gradients.grad_x + at, gradients.parameters,
             scratch);
    begin = stop;
  }
}

}  // namespace pdrec::PDREC_ISA
