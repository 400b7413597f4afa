// Python bindings of the family packed, see bindings.cpp.
#include "bindings_packed.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <tuple>
#include <vector>

#include "arrays.hpp"
#include "bind.hpp"
#include "dispatch.hpp"

namespace {

void require_sequences(const Array<std::int64_t>& indptr, py::ssize_t n_sequences,
                       py::ssize_t n_tokens) {
  require_rows(indptr, n_sequences + 1, "indptr of shape [n_sequences + 1]");
  require(indptr.at(0) == 0 && indptr.at(n_sequences) == n_tokens,
          "indptr from 0 to the number of tokens");
  require_rising(indptr, 0, n_tokens, "indptr");
}

// Of packed sequences: indptr, users, keep_from, keep_scale, seed, epoch, stream.
using Words = std::tuple<Array<std::int64_t>, Array<std::int64_t>, std::uint32_t, float,
                         std::uint64_t, std::uint32_t, std::uint32_t>;

pdrec::SequenceDropout sequence_dropout(const Words& words, py::ssize_t n_tokens) {
  const auto& [indptr, users, keep_from, keep_scale, seed, epoch, stream] = words;
  require(users.ndim() == 1, "users of shape [n_sequences]");
  require_users(users);
  require_sequences(indptr, users.shape(0), n_tokens);
  return {keep_from, keep_scale, seed, epoch, stream, users.data()};
}

void packed_dropout(const Array<float>& x, const Words& words, Array<float> out, int n_threads) {
  require(x.ndim() == 2, "x of shape [n_tokens, width]");
  require(out.ndim() == 2 && out.shape(0) == x.shape(0) && out.shape(1) == x.shape(1),
          "out of the shape of x");
  const pdrec::SequenceDropout dropout = sequence_dropout(words, x.shape(0));
  const auto& indptr = std::get<0>(words);
  const pdrec::PackedDropoutArgs args{indptr.size() - 1, x.shape(1), indptr.data(), x.data(),
                                      dropout,           out.mutable_data()};
  const GilReleased released;
  pdrec::packed_dropout(args, n_threads);
}

void attention_pooling(const Array<float>& x, const Array<std::int64_t>& indptr,
                       const Array<float>& queries, Array<float> out, int n_threads) {
  require(x.ndim() == 2, "x of shape [n_tokens, width]");
  require(queries.ndim() == 3 && queries.shape(2) == x.shape(1),
          "queries of shape [n_sequences, n_heads, width]");
  require_sequences(indptr, queries.shape(0), x.shape(0));
  require(out.ndim() == 3 && out.shape(0) == queries.shape(0) &&
              out.shape(1) == queries.shape(1) && out.shape(2) == queries.shape(2),
          "out of the shape of queries");
  const pdrec::AttentionPoolingArgs args{queries.shape(0), queries.shape(1), queries.shape(2),
                                         indptr.data(),    x.data(),         queries.data(),
                                         out.mutable_data()};
  const GilReleased released;
  pdrec::attention_pooling(args, n_threads);
}

// Without a softmax.
pdrec::PackedAttentionArgs heads_args(const Heads& q, const Heads& k, const Heads& v,
                                      const Words& words) {
  const pdrec::HeadsView queries = heads_view(q, q, "q of shape [n_tokens, n_heads, width]");
  const pdrec::SequenceDropout dropout = sequence_dropout(words, q.shape(0));
  const auto& indptr = std::get<0>(words);
  return {indptr.size() - 1,
          q.shape(1),
          q.shape(2),
          indptr.data(),
          queries,
          heads_view(k, q, "k of the shape of q"),
          heads_view(v, q, "v of the shape of q"),
          dropout,
          nullptr,
          nullptr};
}

// softmax [2, n_tokens, n_heads]: maximum and inverse.
pdrec::PackedAttentionArgs attention_args(const Heads& q, const Heads& k, const Heads& v,
                                          const Words& words, Array<float>& softmax) {
  pdrec::PackedAttentionArgs args = heads_args(q, k, v, words);
  require(softmax.ndim() == 3 && softmax.shape(0) == 2 && softmax.shape(1) == q.shape(0) &&
              softmax.shape(2) == q.shape(1),
          "softmax of shape [2, n_tokens, n_heads]");
  args.maximum = softmax.mutable_data();
  args.inverse = softmax.mutable_data() + q.shape(0) * q.shape(1);
  return args;
}

void packed_attention(const Heads& q, const Heads& k, const Heads& v, const Words& words,
                      Array<float> out, Array<float> softmax, int n_threads) {
  const pdrec::PackedAttentionArgs args = attention_args(q, k, v, words, softmax);
  heads_view(out, q, "out of the shape of q");
  float* data = out.mutable_data();
  const GilReleased released;
  pdrec::packed_attention(args, data, n_threads);
}

void packed_attention_backward(const Heads& grad_out, const Heads& q, const Heads& k,
                               const Heads& v, const Words& words, Array<float> softmax,
                               Array<float> grad_q, Array<float> grad_k, Array<float> grad_v,
                               int n_threads) {
  const pdrec::PackedAttentionArgs args = attention_args(q, k, v, words, softmax);
  heads_view(grad_q, q, "grad_q of the shape of q");
  heads_view(grad_k, q, "grad_k of the shape of q");
  heads_view(grad_v, q, "grad_v of the shape of q");
  const pdrec::PackedAttentionGradients gradients{
      heads_view(grad_out, q, "grad_out of the shape of q"), q.shape(1) * q.shape(2),
      grad_q.mutable_data(), grad_k.mutable_data(), grad_v.mutable_data()};
  const GilReleased released;
  pdrec::packed_attention_backward(args, gradients, n_threads);
}

// distance, time, times, begins: see pdrec::AttentionBiases.
using Biases = std::tuple<std::optional<Array<float>>, std::optional<Array<float>>,
                          std::optional<Array<double>>, std::optional<Array<double>>>;

pdrec::AttentionBiases attention_biases(const Biases& biases, py::ssize_t n_tokens) {
  const auto& [distance, time, times, begins] = biases;
  pdrec::AttentionBiases result{};
  if (distance) {
    require(distance->ndim() == 1 && distance->size() > 0, "a bias of distance of shape [n], n > 0");
    result.distance = distance->data();
    result.n_distances = distance->size();
  }
  require(time.has_value() == times.has_value() && time.has_value() == begins.has_value(),
          "a bias of time, times and begins, or none of them");
  if (time) {
    require_rows(*times, n_tokens, "times of shape [n_tokens]");
    require(begins->ndim() == 1 && begins->size() > 0 && begins->data()[0] == 0.0,
            "begins of shape [n], n > 0, from 0");
    for (py::ssize_t i = 1; i < begins->size(); ++i) {
      require(begins->data()[i - 1] <= begins->data()[i], "begins that rise");
    }
    require(begins->size() < kInt32End, "at most 2^31 - 1 begins");
    require_rows(*time, begins->size(), "a bias of time of the shape of begins");
    result.time = time->data();
    result.times = times->data();
    result.begins = begins->data();
    result.n_begins = begins->size();
  }
  return result;
}

// softmax as in packed_attention; empty where pointwise.
pdrec::BiasedAttentionArgs biased_args(const Heads& q, const Heads& k, const Heads& v,
                                       const Words& words, const Biases& biases, bool pointwise,
                                       Array<float>& softmax) {
  require(!pointwise || softmax.size() == 0, "no softmax of pointwise attention");
  const pdrec::PackedAttentionArgs attention =
      pointwise ? heads_args(q, k, v, words) : attention_args(q, k, v, words, softmax);
  return {attention, attention_biases(biases, q.shape(0)), pointwise};
}

void biased_attention(const Heads& q, const Heads& k, const Heads& v, const Words& words,
                      const Biases& biases, bool pointwise, Array<float> out,
                      Array<float> softmax, int n_threads) {
  const pdrec::BiasedAttentionArgs args = biased_args(q, k, v, words, biases, pointwise, softmax);
  heads_view(out, q, "out of the shape of q");
  float* data = out.mutable_data();
  const GilReleased released;
  pdrec::biased_attention(args, data, n_threads);
}

void biased_attention_backward(const Heads& grad_out, const Heads& q, const Heads& k,
                               const Heads& v, const Words& words, const Biases& biases,
                               bool pointwise, Array<float> softmax, Array<float> grad_q,
                               Array<float> grad_k, Array<float> grad_v,
                               Array<float> grad_distance, Array<float> grad_time,
                               int n_threads) {
  const pdrec::BiasedAttentionArgs args = biased_args(q, k, v, words, biases, pointwise, softmax);
  heads_view(grad_q, q, "grad_q of the shape of q");
  heads_view(grad_k, q, "grad_k of the shape of q");
  heads_view(grad_v, q, "grad_v of the shape of q");
  require_rows(grad_distance, args.biases.n_distances, "grad_distance of the bias's shape");
  require_rows(grad_time, args.biases.n_begins, "grad_time of the bias's shape");
  const pdrec::PackedAttentionGradients gradients{
      heads_view(grad_out, q, "grad_out of the shape of q"), q.shape(1) * q.shape(2),
      grad_q.mutable_data(), grad_k.mutable_data(), grad_v.mutable_data()};
  float* to_distance = grad_distance.mutable_data();
  float* to_time = grad_time.mutable_data();
  const GilReleased released;
  pdrec::biased_attention_backward(args, gradients, to_distance, to_time, n_threads);
}

// In the order of pdrec::BlockParameters.
using Parameters = std::vector<Array<float>>;

pdrec::BlockParameters<const float> block_parameters(const Parameters& arrays, py::ssize_t d) {
  const py::ssize_t sizes[] = {d, d, 3 * d * d, 3 * d, d * d, d, d, d, d * d, d, d * d, d};
  require(arrays.size() == 12, "12 parameters");
  for (std::size_t i = 0; i < 12; ++i) {
    require(arrays[i].size() == sizes[i], "parameters of a block of the width of x");
  }
  const auto at = [&arrays](std::size_t i) { return arrays[i].data(); };
  return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10), at(11)};
}

// states [8 d n_tokens], statistics [(4 + 2 n_heads) n_tokens] and kept [n_tokens, d], or nothing:
// the forward pass keeps nothing, or all elements.
pdrec::SasrecBlockArgs block_args(const Array<float>& x, const Parameters& parameters,
                                  const Words& words, std::int64_t n_heads, float eps,
                                  Array<float>& states, Array<float>& statistics,
                                  Array<std::uint8_t>& kept) {
  // Of a block that is wider, the parameters' number would not fit.
  require(x.ndim() == 2 && x.shape(1) > 0 && x.shape(1) < (py::ssize_t{1} << 30),
          "x of shape [n_tokens, width], width in 1 .. 2^30 - 1");
  const py::ssize_t n = x.shape(0), d = x.shape(1);
  require(n_heads > 0 && d % n_heads == 0, "n_heads that divide the width");
  const pdrec::SequenceDropout dropout = sequence_dropout(words, n);
  const bool keep = states.size() > 0;
  require(!keep || states.size() == 8 * n * d, "states of shape [8 * n_tokens * width]");
  require(statistics.size() == (keep ? (4 + 2 * n_heads) * n : 0),
          "statistics of shape [(4 + 2 n_heads) * n_tokens]");
  require(kept.size() == (keep && dropout.keep_from ? n * d : 0), "kept of the shape of x");
  float* s = states.mutable_data();
  float* t = statistics.mutable_data();
  const auto& indptr = std::get<0>(words);
  return {indptr.size() - 1,
          n_heads,
          d,
          indptr.data(),
          dropout,
          eps,
          block_parameters(parameters, d),
          x.data(),
          {s, s + n * d, s + 2 * n * d, s + 3 * n * d, s + 4 * n * d, s + 5 * n * d, t, t + 2 * n,
           t + 4 * n, t + (4 + n_heads) * n, kept.size() ? kept.mutable_data() : nullptr},
          keep};
}

void sasrec_block(const Array<float>& x, const Parameters& parameters, const Words& words,
                  std::int64_t n_heads, float eps, Array<float> out, Array<float> states,
                  Array<float> statistics, Array<std::uint8_t> kept, int n_threads) {
  const pdrec::SasrecBlockArgs args =
      block_args(x, parameters, words, n_heads, eps, states, statistics, kept);
  require_matrix(out, x.shape(0), x.shape(1), "out of the shape of x");
  float* data = out.mutable_data();
  const GilReleased released;
  pdrec::sasrec_block(args, data, n_threads);
}

void sasrec_block_backward(const Array<float>& grad_out, const Array<float>& x,
                           const Parameters& parameters, const Words& words, std::int64_t n_heads,
                           float eps, Array<float> states, Array<float> statistics,
                           Array<std::uint8_t> kept, Array<float> grad_x, Array<float> gradients,
                           int n_threads) {
  const pdrec::SasrecBlockArgs args =
      block_args(x, parameters, words, n_heads, eps, states, statistics, kept);
  require(args.keep || x.size() == 0, "states of the forward pass");
  require_matrix(grad_out, x.shape(0), x.shape(1), "grad_out of the shape of x");
  require_matrix(grad_x, x.shape(0), x.shape(1), "grad_x of the shape of x");
  require_rows(gradients, pdrec::block_parameters_size(x.shape(1)),
               "gradients of all parameters");
  float* to_x = grad_x.mutable_data();
  float* to_parameters = gradients.mutable_data();
  const GilReleased released;
  pdrec::sasrec_block_backward(args, grad_out.data(), to_x, to_parameters, n_threads);
}

}  // namespace

void define_packed(py::module_& m) {
  define(m, "packed_dropout", &packed_dropout, "x", "words", "out", "n_threads");
  define(m, "attention_pooling", &attention_pooling, "x", "indptr", "queries", "out", "n_threads");
  define(m, "packed_attention", &packed_attention, "q", "k", "v", "words", "out", "softmax",
         "n_threads");
  define(m, "packed_attention_backward", &packed_attention_backward, "grad_out", "q", "k", "v",
         "words", "softmax", "grad_q", "grad_k", "grad_v", "n_threads");
  define(m, "biased_attention", &biased_attention, "q", "k", "v", "words", "biases", "pointwise",
         "out", "softmax", "n_threads");
  define(m, "biased_attention_backward", &biased_attention_backward, "grad_out", "q", "k", "v",
         "words", "biases", "pointwise", "softmax", "grad_q", "grad_k", "grad_v", "grad_distance",
         "grad_time", "n_threads");
  define(m, "sasrec_block", &sasrec_block, "x", "parameters", "words", "n_heads", "eps", "out",
         "states", "statistics", "kept", "n_threads");
  define(m, "sasrec_block_backward", &sasrec_block_backward, "grad_out", "x", "parameters", "words",
         "n_heads", "eps", "states", "statistics", "kept", "grad_x", "gradients", "n_threads");
}
