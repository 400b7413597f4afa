// Arrays as the bindings take them, and checks of their shapes and of all numbers that say where a
// kernel reads or writes: with what passes here, no kernel leaves its arrays.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "packed/packed_attention.hpp"

namespace py = pybind11;

namespace {

// Without forcecast an array of another dtype or layout is refused, not copied.
template <class T>
using Array = py::array_t<T, py::array::c_style>;

constexpr std::int64_t kInt32End = std::int64_t{1} << 31;
constexpr std::int64_t kWordEnd = std::int64_t{1} << 32;

inline void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("expected ") + what);
}

template <class T>
void require_rows(const Array<T>& array, py::ssize_t n_rows, const char* what) {
  require(array.ndim() == 1 && array.shape(0) == n_rows, what);
}

template <class T>
void require_matrix(const Array<T>& array, py::ssize_t n_rows, py::ssize_t width,
                    const char* what) {
  require(array.ndim() == 2 && array.shape(0) == n_rows && array.shape(1) == width, what);
}

// Every number of the array lies in least .. end - 1.
template <class T>
void require_within(const Array<T>& array, std::int64_t least, std::int64_t end,
                    const char* name) {
  const T* values = array.data();
  bool outside = false;
  for (py::ssize_t i = 0; i < array.size(); ++i) {
    outside |= static_cast<bool>((values[i] < least) | (values[i] >= end));
  }
  if (!outside) return;
  py::ssize_t at = 0;
  while (values[at] >= least && values[at] < end) ++at;
  throw std::invalid_argument(std::string(name) + " must lie in " + std::to_string(least) +
                              " .. " + std::to_string(end - 1) + ", got " +
                              std::to_string(values[at]) + " at " + std::to_string(at));
}

// The numbers rise, or stay, from at least `least` to at most `most`.
inline void require_rising(const Array<std::int64_t>& indptr, std::int64_t least,
                           std::int64_t most, const char* name) {
  const std::int64_t* values = indptr.data();
  const py::ssize_t n = indptr.size();
  py::ssize_t at = n > 0 && values[0] < least ? 0 : 1;
  while (at > 0 && at < n && values[at] >= values[at - 1]) ++at;
  if (at >= n && (n == 0 || values[n - 1] <= most)) return;
  at = std::min(at, n - 1);
  throw std::invalid_argument(std::string(name) + " must rise from " + std::to_string(least) +
                              " to at most " + std::to_string(most) + ", got " +
                              std::to_string(values[at]) + " at " + std::to_string(at));
}

// Rows of `items`, indices below n_items.
inline void require_csr(const Array<std::int64_t>& indptr, const Array<std::int32_t>& items,
                        py::ssize_t n_rows, py::ssize_t n_items, const char* indptr_name = "indptr",
                        const char* items_name = "items") {
  require_rows(indptr, n_rows + 1, "indptr of shape [n_rows + 1]");
  require(items.ndim() == 1, (std::string(items_name) + " of shape [n]").c_str());
  require_rising(indptr, 0, items.shape(0), indptr_name);
  require_within(items, 0, n_items, items_name);
}

// Each row's items ascend, none twice.
inline void require_ascending(const Array<std::int64_t>& indptr,
                              const Array<std::int32_t>& items, const char* name) {
  const std::int32_t* values = items.data();
  for (py::ssize_t row = 0; row + 1 < indptr.size(); ++row) {
    for (std::int64_t i = indptr.data()[row] + 1; i < indptr.data()[row + 1]; ++i) {
      if (values[i - 1] < values[i]) continue;
      throw std::invalid_argument(std::string(name) + " must ascend within a row; row " +
                                  std::to_string(row) + " has " + std::to_string(values[i - 1]) +
                                  " before " + std::to_string(values[i]));
    }
  }
}

inline void require_users(const Array<std::int64_t>& users) {
  require_within(users, 0, kWordEnd, "users");
}

// Adjacent along the last dimension, with any strides along the others.
using Heads = py::array_t<float, 0>;

inline pdrec::HeadsView heads_view(const py::array& array, const py::array& like,
                                   const char* what) {
  bool holds = array.ndim() == 3 && (array.size() == 0 || array.shape(2) == 1 ||
                                     array.strides(2) == sizeof(float));
  for (int d = 0; holds && d < 3; ++d) {
    holds = array.shape(d) == like.shape(d) && array.strides(d) % sizeof(float) == 0;
  }
  require(holds, what);
  return {static_cast<const float*>(array.data()), array.strides(0) / py::ssize_t{sizeof(float)},
          array.strides(1) / py::ssize_t{sizeof(float)}};
}

template <class T>
Array<T> array_of(const std::vector<T>& values) {
  return Array<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

}  // namespace
