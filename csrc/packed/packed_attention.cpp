#include "packed/packed_attention.hpp"

#include <cmath>

#include "packed/_attention_tiles.hpp"

namespace pdrec::PDREC_ISA {

void packed_attention(const PackedAttentionArgs& args, float* out, std::int64_t begin,
                      std::int64_t end, const PackedAttentionScratch& scratch) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(args.width));
  const std::int64_t out_row = args.n_heads * args.width;
  for (std::int64_t row = begin; row < end; ++row) {
    const Head head(args, row);
    float* attended = out + head.first * out_row + head.index * args.width;
    transpose(head.tokens(args.k), args.k.token, head, args.width, scratch.keys);
    fill_zero(attended, out_row, head.length, args.width);
    for (std::int64_t first = 0; first < head.length; first += kQueries) {
      const QueryTile tile = query_tile(head, first);
      if (args.dropout.keep_from) draw_words(args.dropout, head, tile, scratch.words);
      dot_products(head.tokens(args.q), args.q.token, scratch.keys, head, tile, args.width,
                   scratch.weights);
      for (std::int64_t i = 0; i < tile.count; ++i) {
        attend(args, (head.first + first + i) * args.n_heads + head.index, first + i + 1,
               tile.n_lanes, scratch.words + i * head.words_row, scale,
               scratch.weights + i * head.padded);
      }
      add_product({{scratch.weights, head.padded, 1},
                   {head.tokens(args.v), args.v.token},
                   attended + first * out_row,
                   out_row,
                   tile.count,
                   args.width,
                   tile.n_keys});
    }
  }
}

void packed_attention_backward(const PackedAttentionArgs& args,
                               const PackedAttentionGradients& gradients, std::int64_t begin,
                               std::int64_t end, const PackedAttentionScratch& scratch) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(args.width));
  const std::int64_t width = args.width, out_row = gradients.token;
  for (std::int64_t row = begin; row < end; ++row) {
    const Head head(args, row);
    const std::int64_t offset = head.first * out_row + head.index * width;
    const float* grad_out = head.tokens(gradients.grad_out);
    transpose(head.tokens(args.k), args.k.token, head, width, scratch.keys);
    transpose(head.tokens(args.v), args.v.token, head, width, scratch.values);
    fill_zero(gradients.grad_q + offset, out_row, head.length, width);
    fill_zero(gradients.grad_k + offset, out_row, head.length, width);
    fill_zero(gradients.grad_v + offset, out_row, head.length, width);
    for (std::int64_t first = 0; first < head.length; first += kQueries) {
      const QueryTile tile = query_tile(head, first);
      const float* queries = head.tokens(args.q) + first * args.q.token;
      const float* upstream = grad_out + first * gradients.grad_out.token;
      if (args.dropout.keep_from) draw_words(args.dropout, head, tile, scratch.words);
      dot_products(head.tokens(args.q), args.q.token, scratch.keys, head, tile, width,
                   scratch.weights);
      dot_products(grad_out, gradients.grad_out.token, scratch.values, head, tile, width,
                   scratch.gradients);
      for (std::int64_t i = 0; i < tile.count; ++i) {
        differentiate(args, (head.first + first + i) * args.n_heads + head.index, first + i + 1,
                      tile.n_lanes, scratch.words + i * head.words_row, scale,
                      scratch.weights + i * head.padded, scratch.gradients + i * head.padded);
      }
      add_product({{scratch.gradients, head.padded, 1},
                   {head.tokens(args.k), args.k.token},
                   gradients.grad_q + offset + first * out_row,
                   out_row, tile.count, width, tile.n_keys});
      add_product({{scratch.gradients, 1, head.padded},
                   {queries, args.q.token},
                   gradients.grad_k + offset,
                   out_row, tile.n_keys, width, tile.count});
      add_product({{scratch.weights, 1, head.padded},
                   {upstream, gradients.grad_out.token},
                   gradients.grad_v + offset,
                   out_row, tile.n_keys, width, tile.count});
    }
  }
}

}  // namespace pdrec::PDREC_ISA
