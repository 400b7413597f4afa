// Python bindings: buffers in, shapes checked, the GIL released. Values are checked in Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "arrays.hpp"
#include "bindings_candidates.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"
#include "candidates/_item_groups.hpp"
#include "random_keys.hpp"

namespace {

py::dict build_info() {
  py::dict info;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["build_type"] = PDREC_BUILD_TYPE;
  info["isas_built"] = pdrec::built_isas();
  info["isas_runnable"] = pdrec::runnable_isas();
  info["isa"] = pdrec::isa();
  return info;
}

void random_words(std::uint64_t seed, std::uint32_t epoch, const Array<std::int64_t>& users,
                  std::uint32_t stream, Array<std::uint32_t> out, int n_threads) {
  require(out.ndim() == 2, "out of shape [n_rows, n_words]");
  require_rows(users, out.shape(0), "users of shape [n_rows]");
  const pdrec::RandomWordsArgs args{seed,         epoch,        stream,
                                    users.data(), out.shape(1), out.mutable_data()};
  const py::gil_scoped_release release;
  pdrec::random_words(args, out.shape(0), n_threads);
}

// Returns the number of rows.
py::ssize_t require_scores(const Array<float>& scores, const Array<std::int64_t>& indptr,
                           const Array<std::int32_t>& observed) {
  require(scores.ndim() == 2, "scores of shape [n_rows, n_items]");
  require_csr(indptr, observed, scores.shape(0));
  return scores.shape(0);
}

void select_unobserved(const Array<float>& scores, const Array<std::int64_t>& indptr,
                       const Array<std::int32_t>& observed, const Array<std::int64_t>& first_rank,
                       Array<std::int32_t> top_items, Array<float> threshold_score,
                       Array<std::int32_t> threshold_item, Array<std::int32_t> nan_column,
                       int n_threads) {
  const py::ssize_t n_rows = require_scores(scores, indptr, observed);
  require(top_items.ndim() == 2 && top_items.shape(0) == n_rows, "top_items of shape [n_rows, m]");
  require_rows(first_rank, n_rows, "first_rank of shape [n_rows]");
  require_rows(threshold_score, n_rows, "threshold_score of shape [n_rows]");
  require_rows(threshold_item, n_rows, "threshold_item of shape [n_rows]");
  require_rows(nan_column, n_rows, "nan_column of shape [n_rows]");
  const pdrec::SelectionArgs args{scores.data(),
                                  n_rows,
                                  static_cast<std::int32_t>(scores.shape(1)),
                                  indptr.data(),
                                  observed.data(),
                                  static_cast<std::int32_t>(top_items.shape(1)),
                                  first_rank.data(),
                                  top_items.mutable_data(),
                                  threshold_score.mutable_data(),
                                  threshold_item.mutable_data(),
                                  nan_column.mutable_data()};
  const py::gil_scoped_release release;
  pdrec::select_unobserved(args, n_threads);
}

void sample_pool(const Array<float>& scores, const Array<std::int64_t>& indptr,
                 const Array<std::int32_t>& observed, const Array<float>& threshold_score,
                 const Array<std::int32_t>& threshold_item, bool replace, std::uint64_t seed,
                 std::uint32_t epoch, const Array<std::int64_t>& users, Array<std::int32_t> draws,
                 Array<std::int64_t> pool_size, int n_threads) {
  const py::ssize_t n_rows = require_scores(scores, indptr, observed);
  require(draws.ndim() == 2 && draws.shape(0) == n_rows, "draws of shape [n_rows, n_draws]");
  require_rows(threshold_score, n_rows, "threshold_score of shape [n_rows]");
  require_rows(threshold_item, n_rows, "threshold_item of shape [n_rows]");
  require_rows(users, n_rows, "users of shape [n_rows]");
  require_rows(pool_size, n_rows, "pool_size of shape [n_rows]");
  const pdrec::PoolSamplingArgs args{scores.data(),
                                     n_rows,
                                     static_cast<std::int32_t>(scores.shape(1)),
                                     indptr.data(),
                                     observed.data(),
                                     threshold_score.data(),
                                     threshold_item.data(),
                                     draws.shape(1),
                                     replace,
                                     seed,
                                     epoch,
                                     users.data(),
                                     draws.mutable_data(),
                                     pool_size.mutable_data()};
  const py::gil_scoped_release release;
  pdrec::sample_pool(args, n_threads);
}

// ``scores``: adjacent along a row, rows at any distance.
void count_above(const py::array_t<float, 0>& scores, const Array<float>& bounds,
                 Array<std::int64_t> greater, Array<std::int64_t> equal, Array<std::int64_t> nans,
                 int n_threads) {
  constexpr py::ssize_t kSize = sizeof(float);
  require(scores.ndim() == 2 && scores.shape(1) < (py::ssize_t{1} << 31) &&
              (scores.size() == 0 || scores.shape(1) == 1 || scores.strides(1) == kSize) &&
              scores.strides(0) % kSize == 0,
          "scores of shape [n_rows, n_items], adjacent along a row");
  const py::ssize_t n_rows = scores.shape(0);
  require_rows(bounds, n_rows, "bounds of shape [n_rows]");
  require_rows(greater, n_rows, "greater of shape [n_rows]");
  require_rows(equal, n_rows, "equal of shape [n_rows]");
  require_rows(nans, n_rows, "nans of shape [n_rows]");
  const pdrec::CountAboveArgs args{scores.data(),
                                   n_rows,
                                   static_cast<std::int32_t>(scores.shape(1)),
                                   scores.strides(0) / kSize,
                                   bounds.data(),
                                   greater.mutable_data(),
                                   equal.mutable_data(),
                                   nans.mutable_data()};
  const py::gil_scoped_release release;
  pdrec::count_above(args, n_threads);
}

void count_above_sums(const Array<float>& logits, const Array<float>& scores,
                      const Array<float>& weights, const Array<float>& bounds,
                      Array<std::int64_t> greater, Array<std::int64_t> equal,
                      Array<std::int64_t> nans, int n_threads) {
  require(logits.ndim() == 2 && logits.shape(1) < (py::ssize_t{1} << 31),
          "logits of shape [n_rows, n_items]");
  const py::ssize_t n_rows = logits.shape(0), n_weights = weights.size();
  require_matrix(scores, n_rows, logits.shape(1), "scores of the shape of logits");
  require_rows(weights, n_weights, "weights of shape [n_weights]");
  require_matrix(bounds, 2, n_rows, "bounds of shape [2, n_rows]");
  require_matrix(greater, n_rows, n_weights, "greater of shape [n_rows, n_weights]");
  require_matrix(equal, n_rows, n_weights, "equal of shape [n_rows, n_weights]");
  require_matrix(nans, n_rows, n_weights, "nans of shape [n_rows, n_weights]");
  const pdrec::CountAboveSumsArgs args{logits.data(),
                                       scores.data(),
                                       n_rows,
                                       static_cast<std::int32_t>(logits.shape(1)),
                                       weights.data(),
                                       n_weights,
                                       bounds.data(),
                                       bounds.data() + n_rows,
                                       greater.mutable_data(),
                                       equal.mutable_data(),
                                       nans.mutable_data()};
  const py::gil_scoped_release release;
  pdrec::count_above_sums(args, n_threads);
}

template <class Out>
void noisy_input(const Array<std::int64_t>& indptr, const Array<std::int32_t>& items,
                 const Array<float>& values, const Array<float>& signal, const Array<float>& sigma,
                 bool dropout, std::uint32_t keep_from, float keep_scale, std::uint64_t seed,
                 std::uint32_t epoch, const Array<std::int64_t>& users, std::uint32_t first_block,
                 Array<Out> out, int n_threads) {
  require(out.ndim() == 2, "out of shape [n_rows, n_items]");
  const py::ssize_t n_rows = out.shape(0);
  require_csr(indptr, items, n_rows);
  require_rows(values, items.shape(0), "values of the shape of items");
  require_rows(signal, n_rows, "signal of shape [n_rows]");
  require_rows(sigma, n_rows, "sigma of shape [n_rows]");
  require_rows(users, n_rows, "users of shape [n_rows]");
  const pdrec::NoisyInputArgs args{n_rows,        static_cast<std::int32_t>(out.shape(1)),
                                   indptr.data(), items.data(),
                                   values.data(), signal.data(),
                                   sigma.data(),  dropout,
                                   keep_from,     keep_scale,
                                   seed,          epoch,
                                   users.data(),  first_block};
  Out* data = out.mutable_data();
  const py::gil_scoped_release release;
  pdrec::noisy_input(args, data, n_threads);
}

void sparse_product(const Array<std::int64_t>& indptr, const Array<std::int32_t>& items,
                    const Array<float>& values, const Array<std::int64_t>& matrix_indptr,
                    const Array<std::int32_t>& matrix_columns, const Array<float>& matrix_values,
                    Array<float> out, Array<std::uint8_t> bad, int n_threads) {
  require(out.ndim() == 2, "out of shape [n_rows, n_columns]");
  const py::ssize_t n_rows = out.shape(0);
  require_csr(indptr, items, n_rows);
  require_rows(values, items.shape(0), "values of the shape of items");
  require(matrix_indptr.ndim() == 1 && matrix_indptr.shape(0) > 0, "matrix_indptr of shape [m + 1]");
  require_csr(matrix_indptr, matrix_columns, matrix_indptr.shape(0) - 1);
  require_rows(matrix_values, matrix_columns.shape(0), "matrix_values of the shape of its columns");
  require_rows(bad, n_rows, "bad of shape [n_rows]");
  const pdrec::SparseProductArgs args{n_rows,
                                      indptr.data(),
                                      items.data(),
                                      values.data(),
                                      matrix_indptr.data(),
                                      matrix_columns.data(),
                                      matrix_values.data(),
                                      out.shape(1),
                                      out.mutable_data(),
                                      bad.mutable_data()};
  const py::gil_scoped_release release;
  pdrec::sparse_product(args, n_threads);
}

// Of packed sequences: indptr, users, keep_from, keep_scale, seed, epoch, stream.
using Words = std::tuple<Array<std::int64_t>, Array<std::int64_t>, std::uint32_t, float,
                         std::uint64_t, std::uint32_t, std::uint32_t>;

pdrec::SequenceDropout sequence_dropout(const Words& words, py::ssize_t n_tokens) {
  const auto& [indptr, users, keep_from, keep_scale, seed, epoch, stream] = words;
  require(users.ndim() == 1, "users of shape [n_sequences]");
  require_rows(indptr, users.shape(0) + 1, "indptr of shape [n_sequences + 1]");
  require(indptr.at(0) == 0 && indptr.at(users.shape(0)) == n_tokens,
          "indptr from 0 to the number of tokens");
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
  const py::gil_scoped_release release;
  pdrec::packed_dropout(args, n_threads);
}

void attention_pooling(const Array<float>& x, const Array<std::int64_t>& indptr,
                       const Array<float>& queries, Array<float> out, int n_threads) {
  require(x.ndim() == 2, "x of shape [n_tokens, width]");
  require(queries.ndim() == 3 && queries.shape(2) == x.shape(1),
          "queries of shape [n_sequences, n_heads, width]");
  require_rows(indptr, queries.shape(0) + 1, "indptr of shape [n_sequences + 1]");
  require(indptr.at(0) == 0 && indptr.at(queries.shape(0)) == x.shape(0),
          "indptr from 0 to the number of tokens");
  require(out.ndim() == 3 && out.shape(0) == queries.shape(0) &&
              out.shape(1) == queries.shape(1) && out.shape(2) == queries.shape(2),
          "out of the shape of queries");
  const pdrec::AttentionPoolingArgs args{queries.shape(0), queries.shape(1), queries.shape(2),
                                         indptr.data(),    x.data(),         queries.data(),
                                         out.mutable_data()};
  const py::gil_scoped_release release;
  pdrec::attention_pooling(args, n_threads);
}

// softmax [2, n_tokens, n_heads]: maximum and inverse.
pdrec::PackedAttentionArgs attention_args(const Heads& q, const Heads& k, const Heads& v,
                                          const Words& words, Array<float>& softmax) {
  const pdrec::HeadsView queries = heads_view(q, q, "q of shape [n_tokens, n_heads, width]");
  require(softmax.ndim() == 3 && softmax.shape(0) == 2 && softmax.shape(1) == q.shape(0) &&
              softmax.shape(2) == q.shape(1),
          "softmax of shape [2, n_tokens, n_heads]");
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
          softmax.mutable_data(),
          softmax.mutable_data() + q.shape(0) * q.shape(1)};
}

void packed_attention(const Heads& q, const Heads& k, const Heads& v, const Words& words,
                      Array<float> out, Array<float> softmax, int n_threads) {
  const pdrec::PackedAttentionArgs args = attention_args(q, k, v, words, softmax);
  heads_view(out, q, "out of the shape of q");
  float* data = out.mutable_data();
  const py::gil_scoped_release release;
  pdrec::packed_attention(args, data, n_threads);
}

void packed_attention_backward(const Heads& grad_out, const Heads& q, const Heads& k,
                               const Heads& v, const Words& words, Array<float> softmax,
                               Heads grad_q, Heads grad_k, Heads grad_v, int n_threads) {
  const pdrec::PackedAttentionArgs args = attention_args(q, k, v, words, softmax);
  const char* like_q = "gradients of the shape of q, strided alike, with adjacent heads";
  const std::int64_t token = heads_view(grad_q, q, like_q).token;
  for (const Heads* gradient : {&grad_q, &grad_k, &grad_v}) {
    const pdrec::HeadsView view = heads_view(*gradient, q, like_q);
    require(q.size() == 0 || ((q.shape(0) == 1 || view.token == token) &&
                              (q.shape(1) == 1 || view.head == q.shape(2))), like_q);
  }
  const pdrec::PackedAttentionGradients gradients{
      heads_view(grad_out, q, "grad_out of the shape of q"), token, grad_q.mutable_data(),
      grad_k.mutable_data(), grad_v.mutable_data()};
  const py::gil_scoped_release release;
  pdrec::packed_attention_backward(args, gradients, n_threads);
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
  require(x.ndim() == 2 && x.shape(1) > 0, "x of shape [n_tokens, width]");
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
  const py::gil_scoped_release release;
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
  const py::gil_scoped_release release;
  pdrec::sasrec_block_backward(args, grad_out.data(), to_x, to_parameters, n_threads);
}

// The gradients of `rows`, which refer to `groups`; without rows those of all n_rows.
pdrec::RowGradients row_gradients(const std::optional<Array<std::int32_t>>& rows,
                                  const Array<float>& gradients, const Array<float>& table,
                                  pdrec::ItemGroups& groups) {
  require(table.ndim() == 2, "table of shape [n_rows, width]");
  const py::ssize_t n = rows ? rows->size() : table.shape(0);
  require(n < std::int64_t{1} << 31, "fewer than 2^31 rows");
  if (rows) require_rows(*rows, n, "rows of shape [n]");
  require_matrix(gradients, n, table.shape(1), "gradients of shape [n, width]");
  if (!rows) return {n, table.shape(1), nullptr, nullptr, nullptr, gradients.data()};
  groups = pdrec::group_by_item(rows->data(), n);
  require(groups.order.size() == static_cast<std::size_t>(n) &&
              (n == 0 || groups.items.back() < table.shape(0)),
          "rows within the table");
  return {static_cast<std::int64_t>(groups.items.size()),
          table.shape(1),
          groups.items.data(),
          groups.starts.data(),
          groups.order.data(),
          gradients.data()};
}

// Clears the rows `stale` of out first. Returns the rows that it wrote.
Array<std::int32_t> sum_rows(const Array<std::int32_t>& stale, const Array<std::int32_t>& rows,
                             const Array<float>& gradients, Array<float> out, int n_threads) {
  pdrec::ItemGroups groups;
  float* data = out.mutable_data();
  const pdrec::SumRowsArgs args{row_gradients(rows, gradients, out, groups), data};
  const std::int64_t width = args.gradients.width;
  for (py::ssize_t i = 0; i < stale.size(); ++i) {
    require(stale.data()[i] >= 0 && stale.data()[i] < out.shape(0), "stale rows of the table");
    std::fill_n(data + stale.data()[i] * width, width, 0.0f);
  }
  {
    const py::gil_scoped_release release;
    pdrec::sum_rows(args, n_threads);
  }
  return array_of(groups.items);
}

void adam_rows(Array<float> table, Array<float> exp_avg, Array<float> exp_avg_sq,
               const std::optional<Array<std::int32_t>>& rows, const Array<float>& gradients,
               const std::array<float, 7>& factors, int n_threads) {
  pdrec::ItemGroups groups;
  const pdrec::RowGradients grouped = row_gradients(rows, gradients, table, groups);
  for (const Array<float>* moment : {&exp_avg, &exp_avg_sq}) {
    require_matrix(*moment, table.shape(0), table.shape(1), "moments of the shape of table");
  }
  const auto [kept, new_first, old_second, new_second, root_scale, eps, rate] = factors;
  const pdrec::AdamRowsArgs args{grouped,
                                 {kept, new_first, old_second, new_second, root_scale, eps, rate},
                                 table.mutable_data(),
                                 exp_avg.mutable_data(),
                                 exp_avg_sq.mutable_data()};
  const py::gil_scoped_release release;
  pdrec::adam_rows(args, n_threads);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  using py::arg;
  m.doc() = "Compiled operations of pdrec_fast on NumPy buffers.";
  m.def("build_info", &build_info);
  m.def("set_isa", &pdrec::set_isa, arg("name"));
  m.def("use_team", [](std::uintptr_t address) {
    pdrec::use_team(reinterpret_cast<pdrec::RunTeam>(address));
  }, arg("address"));
  m.attr("random_streams") = py::dict(
      arg("NOISE") = pdrec::random_keys::NOISE, arg("DROPOUT") = pdrec::random_keys::DROPOUT,
      arg("NEGATIVES") = pdrec::random_keys::NEGATIVES, arg("VIEWS") = pdrec::random_keys::VIEWS,
      arg("ENCODER") = pdrec::random_keys::ENCODER);
  m.def("random_words", &random_words, arg("seed"), arg("epoch"), arg("users"), arg("stream"),
        arg("out").noconvert(), arg("n_threads"));
  m.def("select_unobserved", &select_unobserved, arg("scores").noconvert(),
        arg("indptr").noconvert(), arg("observed").noconvert(), arg("first_rank").noconvert(),
        arg("top_items").noconvert(), arg("threshold_score").noconvert(),
        arg("threshold_item").noconvert(), arg("nan_column").noconvert(), arg("n_threads"));
  m.def("count_above", &count_above, arg("scores").noconvert(), arg("bounds").noconvert(),
        arg("greater").noconvert(), arg("equal").noconvert(), arg("nans").noconvert(),
        arg("n_threads"));
  m.def("count_above_sums", &count_above_sums, arg("logits").noconvert(),
        arg("scores").noconvert(), arg("weights").noconvert(), arg("bounds").noconvert(),
        arg("greater").noconvert(), arg("equal").noconvert(), arg("nans").noconvert(),
        arg("n_threads"));
  m.def("sample_pool", &sample_pool, arg("scores").noconvert(), arg("indptr").noconvert(),
        arg("observed").noconvert(), arg("threshold_score").noconvert(),
        arg("threshold_item").noconvert(), arg("replace"), arg("seed"), arg("epoch"),
        arg("users").noconvert(), arg("draws").noconvert(), arg("pool_size").noconvert(),
        arg("n_threads"));
  const auto def_noisy_input = [&m](auto function) {
    m.def("noisy_input", function, arg("indptr").noconvert(), arg("items").noconvert(),
          arg("values").noconvert(), arg("signal").noconvert(), arg("sigma").noconvert(),
          arg("dropout"), arg("keep_from"), arg("keep_scale"), arg("seed"), arg("epoch"),
          arg("users").noconvert(), arg("first_block"), arg("out").noconvert(), arg("n_threads"));
  };
  def_noisy_input(&noisy_input<float>);
  def_noisy_input(&noisy_input<std::uint16_t>);
  m.def("sparse_product", &sparse_product, arg("indptr").noconvert(), arg("items").noconvert(),
        arg("values").noconvert(), arg("matrix_indptr").noconvert(),
        arg("matrix_columns").noconvert(), arg("matrix_values").noconvert(),
        arg("out").noconvert(), arg("bad").noconvert(), arg("n_threads"));
  m.def("packed_dropout", &packed_dropout, arg("x").noconvert(), arg("words").noconvert(),
        arg("out").noconvert(), arg("n_threads"));
  m.def("attention_pooling", &attention_pooling, arg("x").noconvert(), arg("indptr").noconvert(),
        arg("queries").noconvert(), arg("out").noconvert(), arg("n_threads"));
  m.def("packed_attention", &packed_attention, arg("q").noconvert(), arg("k").noconvert(),
        arg("v").noconvert(), arg("words").noconvert(), arg("out").noconvert(),
        arg("softmax").noconvert(), arg("n_threads"));
  m.def("packed_attention_backward", &packed_attention_backward, arg("grad_out").noconvert(),
        arg("q").noconvert(), arg("k").noconvert(), arg("v").noconvert(),
        arg("words").noconvert(), arg("softmax").noconvert(), arg("grad_q").noconvert(),
        arg("grad_k").noconvert(), arg("grad_v").noconvert(), arg("n_threads"));
  m.def("sasrec_block", &sasrec_block, arg("x").noconvert(), arg("parameters").noconvert(),
        arg("words").noconvert(), arg("n_heads"), arg("eps"), arg("out").noconvert(),
        arg("states").noconvert(), arg("statistics").noconvert(), arg("kept").noconvert(),
        arg("n_threads"));
  m.def("sasrec_block_backward", &sasrec_block_backward, arg("grad_out").noconvert(),
        arg("x").noconvert(), arg("parameters").noconvert(), arg("words").noconvert(),
        arg("n_heads"), arg("eps"), arg("states").noconvert(), arg("statistics").noconvert(),
        arg("kept").noconvert(), arg("grad_x").noconvert(), arg("gradients").noconvert(),
        arg("n_threads"));
  define_candidates(m);
  m.def("sum_rows", &sum_rows, arg("stale").noconvert(), arg("rows").noconvert(),
        arg("gradients").noconvert(), arg("out").noconvert(), arg("n_threads"));
  m.def("adam_rows", &adam_rows, arg("table").noconvert(), arg("exp_avg").noconvert(),
        arg("exp_avg_sq").noconvert(), arg("rows").noconvert(), arg("gradients").noconvert(),
        arg("factors"), arg("n_threads"));
}
