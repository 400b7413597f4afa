// Arrays as the bindings take them, and checks of their shapes.
#pragma once

#include <pybind11/numpy.h>

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

inline void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("expected ") + what);
}

template <class T>
void require_rows(const Array<T>& array, py::ssize_t n_rows, const char* what) {
  require(array.ndim() == 1 && array.shape(0) == n_rows, what);
}

inline void require_csr(const Array<std::int64_t>& indptr, const Array<std::int32_t>& items,
                 py::ssize_t n_rows) {
  require_rows(indptr, n_rows + 1, "indptr of shape [n_rows + 1]");
  require(items.ndim() == 1 && indptr.at(0) >= 0 && indptr.at(n_rows) <= items.shape(0),
          "indptr within items of shape [n]");
}

// Adjacent along the last dimension, with any strides along the others.
using Heads = py::array_t<float, 0>;

inline pdrec::HeadsView heads_view(const py::array& array, const Heads& like, const char* what) {
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
void require_matrix(const Array<T>& array, py::ssize_t n_rows, py::ssize_t width,
                    const char* what) {
  require(array.ndim() == 2 && array.shape(0) == n_rows && array.shape(1) == width, what);
}

template <class T>
Array<T> array_of(const std::vector<T>& values) {
  return Array<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

}  // namespace
