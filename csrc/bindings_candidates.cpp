// Python bindings of the family candidates, see bindings.cpp.
#include "bindings_candidates.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "arrays.hpp"
#include "bind.hpp"
#include "candidates/_item_groups.hpp"
#include "dispatch.hpp"

namespace {

pdrec::Candidates candidates(const Array<float>& states, const Array<float>& table,
                             const Array<std::int32_t>& items) {
  require(states.ndim() == 2, "states of shape [n_rows, width]");
  require(table.ndim() == 2 && table.shape(1) == states.shape(1),
          "table of shape [n_items, width]");
  require(items.ndim() == 2 && items.shape(0) == states.shape(0),
          "items of shape [n_rows, n_candidates]");
  require_within(items, -1, table.shape(0), "items");
  return {states.data(),   table.data(),    items.data(),
          states.shape(0), items.shape(1), states.shape(1)};
}

void require_like(const Array<float>& array, const Array<std::int32_t>& items, const char* what) {
  require(array.ndim() == 2 && array.shape(0) == items.shape(0) &&
              array.shape(1) == items.shape(1),
          what);
}

void item_logits(const Array<float>& states, const Array<float>& table,
                 const Array<std::int32_t>& items, bool cosine, float temperature,
                 const std::optional<Array<float>>& bias, Array<float> logits, int n_threads) {
  if (bias) require_rows(*bias, table.shape(0), "bias of shape [n_items]");
  require_like(logits, items, "logits of the shape of items");
  const pdrec::ItemLogitsArgs args{candidates(states, table, items),
                                   {cosine, temperature},
                                   bias ? bias->data() : nullptr,
                                   logits.mutable_data()};
  const GilReleased released;
  pdrec::item_logits(args, n_threads);
}

pdrec::CandidateLoss candidate_loss(const Array<float>& states, const Array<float>& table,
                                    const Array<std::int32_t>& items, const Array<float>& weights,
                                    bool cosine, float temperature, Array<float>& grad_dot,
                                    Array<float>& grad_item, Array<float>& grad_state) {
  require_like(grad_dot, items, "grad_dot of the shape of items");
  require_like(grad_item, items, "grad_item of the shape of items");
  require_rows(grad_state, states.shape(0), "grad_state of shape [n_rows]");
  return {candidates(states, table, items),
          {cosine, temperature},
          weights.data(),
          nullptr,
          grad_dot.mutable_data(),
          grad_item.mutable_data(),
          grad_state.mutable_data()};
}

double weighted_bce(const Array<float>& states, const Array<float>& table,
                    const Array<std::int32_t>& items, const Array<float>& weights,
                    std::int64_t n_positives, bool cosine, float temperature,
                    Array<float> grad_dot, Array<float> grad_item, Array<float> grad_state,
                    int n_threads) {
  const pdrec::WeightedBceArgs args{candidate_loss(states, table, items, weights, cosine,
                                                   temperature, grad_dot, grad_item, grad_state),
                                    n_positives};
  require_like(weights, items, "weights of the shape of items");
  require(n_positives >= 0 && n_positives <= items.shape(1), "n_positives of the candidates");
  const GilReleased released;
  return pdrec::weighted_bce(args, n_threads);
}

double sampled_softmax(const Array<float>& states, const Array<float>& table,
                       const Array<std::int32_t>& items, const Array<float>& weights, bool cosine,
                       float temperature, Array<float> grad_dot, Array<float> grad_item,
                       Array<float> grad_state, int n_threads) {
  const pdrec::CandidateLoss args = candidate_loss(states, table, items, weights, cosine,
                                                   temperature, grad_dot, grad_item, grad_state);
  require(items.shape(1) > 0, "items with a column of positives");
  require_rows(weights, states.shape(0), "weights of shape [n_rows]");
  const GilReleased released;
  return pdrec::sampled_softmax(args, n_threads);
}

// [n_rows, n_items] of float, or of uint16 for the bits of bfloat16.
pdrec::LogitBlock logit_block(py::array& array, py::ssize_t n_rows) {
  require(array.ndim() == 2 && array.shape(0) == n_rows &&
              (array.flags() & py::array::c_style) != 0,
          "block of shape [n_rows, n_items], contiguous");
  require(array.shape(1) < kInt32End, "block of fewer than 2^31 items");
  const bool half = py::isinstance<py::array_t<std::uint16_t>>(array);
  require(half || py::isinstance<py::array_t<float>>(array), "block of float32 or uint16");
  return {array.mutable_data(), half, array.shape(1), array.shape(1)};
}

// States and items of one width and of float32 for products; the states' and the items' gradient, of
// the same shapes, or nothing. The items' is set, but left alone where there are no states.
using Products = std::tuple<Array<float>, Array<float>, std::optional<Array<float>>,
                            std::optional<Array<float>>>;

template <>
constexpr unsigned kWritten<Products> = 0b1100;

pdrec::ItemProducts item_products(Products& arrays, py::ssize_t n_rows) {
  auto& [states, items, grad_states, grad_items] = arrays;
  require(states.ndim() == 2 && states.shape(0) == n_rows, "states of shape [n_rows, width]");
  const py::ssize_t width = states.shape(1);
  require(items.ndim() == 2 && items.shape(1) == width && items.shape(0) < kInt32End,
          "items of shape [n_items, width], n_items below 2^31");
  if (grad_states) require_matrix(*grad_states, n_rows, width, "grad_states like states");
  if (grad_items) require_matrix(*grad_items, items.shape(0), width, "grad_items like items");
  return {items.shape(0), width, states.data(), items.data(), nullptr,
          grad_states ? grad_states->mutable_data() : nullptr};
}

float* items_gradient(Products& arrays) {
  auto& gradient = std::get<3>(arrays);
  return gradient ? gradient->mutable_data() : nullptr;
}

// Everything of a shared softmax but its block.
pdrec::SharedSoftmaxArgs shared_args(const pdrec::CandidateLoss& loss, py::ssize_t n_table,
                                     pdrec::LogitBlock block,
                                     const Array<std::int32_t>& negatives,
                                     const Array<float>& offsets, const Array<float>& weights,
                                     Array<float>& factors) {
  require(loss.candidates.n_candidates > 0, "items with a column of positives");
  require_rows(weights, loss.candidates.n_rows, "weights of shape [n_rows]");
  require_rows(factors, loss.candidates.n_rows, "factors of shape [n_rows]");
  require_rows(negatives, block.n_items, "negatives of shape [n_items]");
  require_rows(offsets, block.n_items, "offsets of shape [n_items]");
  require_within(negatives, 0, n_table, "negatives");
  return {loss, block, negatives.data(), offsets.data(), factors.mutable_data()};
}

double shared_softmax(const Array<float>& states, const Array<float>& table,
                      const Array<std::int32_t>& items, const Array<std::int32_t>& negatives,
                      const Array<float>& offsets, const Array<float>& weights, bool cosine,
                      float temperature, py::array block, Array<float> factors,
                      Array<float> grad_dot, Array<float> grad_item, Array<float> grad_state,
                      int n_threads) {
  const pdrec::SharedSoftmaxArgs args =
      shared_args(candidate_loss(states, table, items, weights, cosine, temperature, grad_dot,
                                 grad_item, grad_state),
                  table.shape(0), logit_block(block, states.shape(0)), negatives, offsets,
                  weights, factors);
  const GilReleased released;
  return pdrec::shared_softmax(args, n_threads);
}

double shared_softmax_products(const Array<float>& states, const Array<float>& table,
                               const Array<std::int32_t>& items,
                               const Array<std::int32_t>& negatives, const Array<float>& offsets,
                               const Array<float>& weights, bool cosine, float temperature,
                               Products products, Array<float> factors, Array<float> grad_dot,
                               Array<float> grad_item, Array<float> grad_state, int n_threads) {
  const pdrec::ItemProducts of_items = item_products(products, states.shape(0));
  const pdrec::LogitBlock block{nullptr, false, of_items.n_items, 0};
  const pdrec::SharedSoftmaxArgs args =
      shared_args(candidate_loss(states, table, items, weights, cosine, temperature, grad_dot,
                                 grad_item, grad_state),
                  table.shape(0), block, negatives, offsets, weights, factors);
  float* const grad_items = items_gradient(products);
  const GilReleased released;
  return pdrec::shared_softmax(args, of_items, grad_items, n_threads);
}

// squares, positives, weights and totals of a corpus softmax, [n_rows] and [n_rows, 4].
using CorpusRows = std::tuple<Array<float>, Array<std::int32_t>, Array<float>, Array<double>>;

template <>
constexpr unsigned kWritten<CorpusRows> = 0b1000;

// n_items: of the corpus, or as many as there can be.
pdrec::CorpusSoftmaxArgs corpus_args(pdrec::LogitBlock block, std::int32_t first_item,
                                     std::int64_t n_items, CorpusRows& of_rows, bool cosine,
                                     float temperature) {
  auto& [squares, positives, weights, totals] = of_rows;
  const py::ssize_t n_rows = positives.size();
  require_rows(squares, n_rows, "squares of shape [n_rows]");
  require_rows(positives, n_rows, "positives of shape [n_rows]");
  require_rows(weights, n_rows, "weights of shape [n_rows]");
  require(first_item >= 0 && first_item + block.n_items <= kInt32End,
          "first_item of a block that ends at 2^31 at most");
  require_within(positives, -1, n_items, "positives");
  require(totals.ndim() == 2 && totals.shape(0) == n_rows && totals.shape(1) == 4,
          "totals of shape [n_rows, 4]");
  static_assert(sizeof(pdrec::CorpusTotals) == 4 * sizeof(double));
  return {block, n_rows, first_item, {cosine, temperature}, squares.data(),
          positives.data(), weights.data(),
          reinterpret_cast<pdrec::CorpusTotals*>(totals.mutable_data())};
}

pdrec::CorpusSoftmaxArgs corpus_block(py::array& block, std::int32_t first_item,
                                      CorpusRows& of_rows, bool cosine, float temperature) {
  return corpus_args(logit_block(block, std::get<1>(of_rows).size()), first_item, kInt32End,
                     of_rows, cosine, temperature);
}

pdrec::CorpusLosses corpus_losses(const pdrec::CorpusSoftmaxArgs& args, bool is_first,
                                  bool is_last, Array<float>& factors, Array<float>& grad_state) {
  require_rows(factors, args.n_rows, "factors of shape [n_rows]");
  require_rows(grad_state, args.n_rows, "grad_state of shape [n_rows]");
  return {args, is_first, is_last, nullptr, factors.mutable_data(), grad_state.mutable_data()};
}

double corpus_softmax(py::array block, std::int32_t first_item, CorpusRows of_rows, bool cosine,
                      float temperature, bool is_first, bool is_last, Array<float> factors,
                      Array<float> grad_state, int n_threads) {
  const pdrec::CorpusLosses args =
      corpus_losses(corpus_block(block, first_item, of_rows, cosine, temperature), is_first,
                    is_last, factors, grad_state);
  const GilReleased released;
  return pdrec::corpus_softmax(args, n_threads);
}

double corpus_softmax_products(Products products, CorpusRows of_rows, bool cosine,
                               float temperature, Array<float> factors, Array<float> grad_state,
                               int n_threads) {
  const pdrec::ItemProducts of_items = item_products(products, std::get<1>(of_rows).size());
  const pdrec::LogitBlock block{nullptr, false, of_items.n_items, 0};
  const pdrec::CorpusLosses args = corpus_losses(
      corpus_args(block, 0, of_items.n_items, of_rows, cosine, temperature), true, true, factors,
      grad_state);
  float* const grad_items = items_gradient(products);
  const GilReleased released;
  return pdrec::corpus_softmax(args, of_items, grad_items, n_threads);
}

void corpus_derivatives(py::array block, std::int32_t first_item, CorpusRows of_rows, bool cosine,
                        float temperature, int n_threads) {
  const pdrec::CorpusSoftmaxArgs args =
      corpus_block(block, first_item, of_rows, cosine, temperature);
  const GilReleased released;
  pdrec::corpus_derivatives(args, n_threads);
}

void states_gradient(const Array<float>& states, const Array<float>& table,
                     const Array<std::int32_t>& items, float grad_loss, const Array<float>& grad_dot,
                     const Array<float>& grad_state, Array<float> out, int n_threads) {
  require_like(grad_dot, items, "grad_dot of the shape of items");
  require_rows(grad_state, states.shape(0), "grad_state of shape [n_rows]");
  require_matrix(out, states.shape(0), states.shape(1), "out of the shape of states");
  const pdrec::StatesGradientArgs args{candidates(states, table, items), grad_loss, grad_dot.data(),
                                       grad_state.data(), out.mutable_data()};
  const GilReleased released;
  pdrec::states_gradient(args, n_threads);
}

py::tuple group_by_item(const Array<std::int32_t>& items) {
  require(items.size() < kInt32End, "fewer than 2^31 items");
  const pdrec::ItemGroups groups = [&] {
    const GilReleased released;
    return pdrec::group_by_item(items.data(), items.size());
  }();
  return py::make_tuple(array_of(groups.items), array_of(groups.starts), array_of(groups.order));
}

// One group for an item: two would write to one row at once.
void require_groups(const Array<std::int32_t>& group_items, const Array<float>& table) {
  require(table.ndim() == 2, "table of shape [n_items, width]");
  require_within(group_items, 0, table.shape(0), "group_items");
  const std::int32_t* items = group_items.data();
  for (py::ssize_t i = 1; i < group_items.size(); ++i) {
    require(items[i - 1] < items[i], "group_items that ascend, none twice");
  }
}

// With `compact`, row i of out belongs to group_items[i], else to item i.
void table_gradient(const Array<float>& states, const Array<float>& table,
                    const Array<std::int32_t>& items, const Array<std::int32_t>& group_items,
                    const Array<std::int64_t>& group_starts, const Array<std::int32_t>& order,
                    float grad_loss, const Array<float>& grad_dot, const Array<float>& grad_item,
                    bool compact, Array<float> out, int n_threads) {
  const py::ssize_t n_groups = group_items.size();
  require_rows(group_items, n_groups, "group_items of shape [n_groups]");
  require_rows(group_starts, n_groups + 1, "group_starts of shape [n_groups + 1]");
  require_rows(order, group_starts.at(n_groups), "order of shape [group_starts[-1]]");
  require_rising(group_starts, 0, order.size(), "group_starts");
  require_within(order, 0, std::min<std::int64_t>(items.size(), kInt32End), "order");
  require_groups(group_items, table);
  require_like(grad_dot, items, "grad_dot of the shape of items");
  require_like(grad_item, items, "grad_item of the shape of items");
  require_matrix(out, compact ? n_groups : table.shape(0), table.shape(1),
                 "out of shape [n_items or n_groups, width]");
  const pdrec::TableGradientArgs args{candidates(states, table, items),
                                      n_groups,
                                      group_items.data(),
                                      group_starts.data(),
                                      order.data(),
                                      grad_loss,
                                      grad_dot.data(),
                                      grad_item.data(),
                                      compact,
                                      out.mutable_data()};
  const GilReleased released;
  pdrec::table_gradient(args, n_threads);
}

}  // namespace

void define_candidates(py::module_& m) {
  define(m, "item_logits", &item_logits, "states", "table", "items", "cosine", "temperature",
         "bias", "logits", "n_threads");
  define(m, "weighted_bce", &weighted_bce, "states", "table", "items", "weights", "n_positives",
         "cosine", "temperature", "grad_dot", "grad_item", "grad_state", "n_threads");
  define(m, "sampled_softmax", &sampled_softmax, "states", "table", "items", "weights", "cosine",
         "temperature", "grad_dot", "grad_item", "grad_state", "n_threads");
  define(m, "shared_softmax", &shared_softmax, "states", "table", "items", "negatives", "offsets",
         "weights", "cosine", "temperature", "block", "factors", "grad_dot", "grad_item",
         "grad_state", "n_threads");
  define(m, "shared_softmax_products", &shared_softmax_products, "states", "table", "items",
         "negatives", "offsets", "weights", "cosine", "temperature", "products", "factors",
         "grad_dot", "grad_item", "grad_state", "n_threads");
  define(m, "corpus_softmax_products", &corpus_softmax_products, "products", "of_rows", "cosine",
         "temperature", "factors", "grad_state", "n_threads");
  define(m, "corpus_softmax", &corpus_softmax, "block", "first_item", "of_rows", "cosine",
         "temperature", "is_first", "is_last", "factors", "grad_state", "n_threads");
  define(m, "corpus_derivatives", &corpus_derivatives, "block", "first_item", "of_rows", "cosine",
         "temperature", "n_threads");
  define(m, "states_gradient", &states_gradient, "states", "table", "items", "grad_loss",
         "grad_dot", "grad_state", "out", "n_threads");
  define(m, "group_by_item", &group_by_item, "items");
  define(m, "table_gradient", &table_gradient, "states", "table", "items", "group_items",
         "group_starts", "order", "grad_loss", "grad_dot", "grad_item", "compact", "out",
         "n_threads");
}
