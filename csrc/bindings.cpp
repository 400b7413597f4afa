// Python bindings: buffers in, checked, the GIL released. What Python has checked before is checked
// again where it says what memory is read or written: it costs little, and nothing gets past it.
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
#include "bind.hpp"
#include "bindings_candidates.hpp"
#include "bindings_packed.hpp"
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
  require_users(users);
  const pdrec::RandomWordsArgs args{seed,         epoch,        stream,
                                    users.data(), out.shape(1), out.mutable_data()};
  const GilReleased released;
  pdrec::random_words(args, out.shape(0), n_threads);
}

// Returns the number of rows.
py::ssize_t require_scores(const Array<float>& scores, const Array<std::int64_t>& indptr,
                           const Array<std::int32_t>& observed) {
  require(scores.ndim() == 2 && scores.shape(1) < kInt32End,
          "scores of shape [n_rows, n_items], n_items below 2^31");
  require_csr(indptr, observed, scores.shape(0), scores.shape(1), "indptr", "observed");
  require_ascending(indptr, observed, "observed");
  return scores.shape(0);
}

// Every row has an unobserved item at its rank.
void require_ranks(const Array<std::int64_t>& first_rank, const Array<std::int64_t>& indptr,
                   py::ssize_t n_items) {
  for (py::ssize_t row = 0; row < first_rank.size(); ++row) {
    const std::int64_t rank = first_rank.data()[row];
    const std::int64_t n = n_items - (indptr.data()[row + 1] - indptr.data()[row]);
    if (rank >= 0 && rank < n) continue;
    throw std::invalid_argument("first_rank must lie below the number of unobserved items, " +
                                std::to_string(n) + " in row " + std::to_string(row) + ", got " +
                                std::to_string(rank));
  }
}

void select_unobserved(const Array<float>& scores, const Array<std::int64_t>& indptr,
                       const Array<std::int32_t>& observed, const Array<std::int64_t>& first_rank,
                       Array<std::int32_t> top_items, Array<float> threshold_score,
                       Array<std::int32_t> threshold_item, Array<std::int32_t> nan_column,
                       int n_threads) {
  const py::ssize_t n_rows = require_scores(scores, indptr, observed);
  require(top_items.ndim() == 2 && top_items.shape(0) == n_rows && top_items.shape(1) < kInt32End,
          "top_items of shape [n_rows, m], m below 2^31");
  require_rows(first_rank, n_rows, "first_rank of shape [n_rows]");
  require_ranks(first_rank, indptr, scores.shape(1));
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
  const GilReleased released;
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
  require_users(users);
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
  const GilReleased released;
  pdrec::sample_pool(args, n_threads);
}

// ``scores``: adjacent along a row, rows at any distance.
void count_above(const py::array_t<float, 0>& scores, const Array<float>& bounds,
                 Array<std::int64_t> greater, Array<std::int64_t> equal, Array<std::int64_t> nans,
                 int n_threads) {
  constexpr py::ssize_t kSize = sizeof(float);
  require(scores.ndim() == 2 && scores.shape(1) < kInt32End &&
              (scores.size() == 0 || scores.shape(1) == 1 || scores.strides(1) == kSize) &&
              scores.strides(0) % kSize == 0,
          "scores of shape [n_rows, n_items], adjacent along a row, n_items below 2^31");
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
  const GilReleased released;
  pdrec::count_above(args, n_threads);
}

void count_above_sums(const Array<float>& logits, const Array<float>& scores,
                      const Array<float>& weights, const Array<float>& bounds,
                      Array<std::int64_t> greater, Array<std::int64_t> equal,
                      Array<std::int64_t> nans, int n_threads) {
  require(logits.ndim() == 2 && logits.shape(1) < kInt32End,
          "logits of shape [n_rows, n_items], n_items below 2^31");
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
  const GilReleased released;
  pdrec::count_above_sums(args, n_threads);
}

template <class Out>
void noisy_input(const Array<std::int64_t>& indptr, const Array<std::int32_t>& items,
                 const Array<float>& values, const Array<float>& signal, const Array<float>& sigma,
                 bool dropout, std::uint32_t keep_from, float keep_scale, std::uint64_t seed,
                 std::uint32_t epoch, const Array<std::int64_t>& users, std::uint32_t first_block,
                 Array<Out> out, int n_threads) {
  require(out.ndim() == 2 && out.shape(1) < kInt32End,
          "out of shape [n_rows, n_items], n_items below 2^31");
  const py::ssize_t n_rows = out.shape(0);
  require_csr(indptr, items, n_rows, out.shape(1));
  require_rows(values, items.shape(0), "values of the shape of items");
  require_rows(signal, n_rows, "signal of shape [n_rows]");
  require_rows(sigma, n_rows, "sigma of shape [n_rows]");
  require_rows(users, n_rows, "users of shape [n_rows]");
  require_users(users);
  const pdrec::NoisyInputArgs args{n_rows,        static_cast<std::int32_t>(out.shape(1)),
                                   indptr.data(), items.data(),
                                   values.data(), signal.data(),
                                   sigma.data(),  dropout,
                                   keep_from,     keep_scale,
                                   seed,          epoch,
                                   users.data(),  first_block};
  Out* data = out.mutable_data();
  const GilReleased released;
  pdrec::noisy_input(args, data, n_threads);
}

void sparse_product(const Array<std::int64_t>& indptr, const Array<std::int32_t>& items,
                    const Array<float>& values, const Array<std::int64_t>& matrix_indptr,
                    const Array<std::int32_t>& matrix_columns, const Array<float>& matrix_values,
                    Array<float> out, Array<std::uint8_t> bad, int n_threads) {
  require(out.ndim() == 2, "out of shape [n_rows, n_columns]");
  const py::ssize_t n_rows = out.shape(0);
  require(matrix_indptr.ndim() == 1 && matrix_indptr.shape(0) > 0,
          "matrix_indptr of shape [m + 1]");
  require_csr(indptr, items, n_rows, matrix_indptr.shape(0) - 1);
  require_rows(values, items.shape(0), "values of the shape of items");
  // Columns are looked at where they are read, see `bad`.
  require(matrix_columns.ndim() == 1, "matrix_columns of shape [n]");
  require_rising(matrix_indptr, 0, matrix_columns.shape(0), "matrix_indptr");
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
  const GilReleased released;
  pdrec::sparse_product(args, n_threads);
}

// The gradients of `rows`, which refer to `groups`; without rows those of all n_rows.
pdrec::RowGradients row_gradients(const std::optional<Array<std::int32_t>>& rows,
                                  const Array<float>& gradients, const Array<float>& table,
                                  pdrec::ItemGroups& groups) {
  require(table.ndim() == 2, "table of shape [n_rows, width]");
  const py::ssize_t n = rows ? rows->size() : table.shape(0);
  require(n < kInt32End, "fewer than 2^31 rows");
  if (rows) require_rows(*rows, n, "rows of shape [n]");
  if (rows) require_within(*rows, 0, table.shape(0), "rows");
  require_matrix(gradients, n, table.shape(1), "gradients of shape [n, width]");
  if (!rows) return {n, table.shape(1), nullptr, nullptr, nullptr, gradients.data()};
  {
    const GilReleased released;
    groups = pdrec::group_by_item(rows->data(), n);
  }
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
  require_within(stale, 0, out.shape(0), "stale");
  {
    const GilReleased released;
    for (py::ssize_t i = 0; i < stale.size(); ++i) {
      std::fill_n(data + stale.data()[i] * width, width, 0.0f);
    }
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
  const GilReleased released;
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
  define(m, "random_words", &random_words, "seed", "epoch", "users", "stream", "out", "n_threads");
  define(m, "select_unobserved", &select_unobserved, "scores", "indptr", "observed", "first_rank",
         "top_items", "threshold_score", "threshold_item", "nan_column", "n_threads");
  define(m, "count_above", &count_above, "scores", "bounds", "greater", "equal", "nans",
         "n_threads");
  define(m, "count_above_sums", &count_above_sums, "logits", "scores", "weights", "bounds",
         "greater", "equal", "nans", "n_threads");
  define(m, "sample_pool", &sample_pool, "scores", "indptr", "observed", "threshold_score",
         "threshold_item", "replace", "seed", "epoch", "users", "draws", "pool_size", "n_threads");
  const auto define_noisy_input = [&m](auto function) {
    define(m, "noisy_input", function, "indptr", "items", "values", "signal", "sigma", "dropout",
           "keep_from", "keep_scale", "seed", "epoch", "users", "first_block", "out", "n_threads");
  };
  define_noisy_input(&noisy_input<float>);
  define_noisy_input(&noisy_input<std::uint16_t>);
  define(m, "sparse_product", &sparse_product, "indptr", "items", "values", "matrix_indptr",
         "matrix_columns", "matrix_values", "out", "bad", "n_threads");
  define_packed(m);
  define_candidates(m);
  define(m, "sum_rows", &sum_rows, "stale", "rows", "gradients", "out", "n_threads");
  define(m, "adam_rows", &adam_rows, "table", "exp_avg", "exp_avg_sq", "rows", "gradients",
         "factors", "n_threads");
}
