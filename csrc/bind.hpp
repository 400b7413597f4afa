// How the bindings define functions: the memory of all arrays is checked before a function sees it.
//
// A function's signature says what it does to an array: what it writes it takes by value, what it
// reads by reference. Arrays that travel in a tuple are read, but for those of kWritten.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace {

// Lets other threads of Python run while it lives. Once the interpreter ends, a thread that asks to
// come back has nowhere to go. Before 3.14 Python unwinds its stack, which no destructor may let
// through and which would release Python objects without the right to; so the thread waits here
// for the process to end, as it does from 3.14 on.
class GilReleased {
 public:
  GilReleased() : state_(PyEval_SaveThread()) {}
  ~GilReleased() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* state_;
};

// The elements of a tuple of arrays that are written, as bits.
template <class Tuple>
constexpr unsigned kWritten = 0;

// Where the arrays of a call lie.
class Memory {
 public:
  // Throws where an element is not at a multiple of its size.
  void add(std::string name, const py::array& array, bool written) {
    if (array.size() == 0) return;
    const auto first = reinterpret_cast<std::uintptr_t>(array.data());
    const auto size = static_cast<std::uintptr_t>(array.itemsize());
    if (first % size != 0) {
      throw std::invalid_argument(name + " begins at an address that is no multiple of " +
                                  std::to_string(size) + ": pass a copy of it");
    }
    std::uintptr_t begin = first, end = first + size;
    for (py::ssize_t d = 0; d < array.ndim(); ++d) {
      const py::ssize_t reach = (array.shape(d) - 1) * array.strides(d);
      (reach < 0 ? begin : end) += static_cast<std::uintptr_t>(reach);
    }
    spans_.push_back({std::move(name), begin, end, written});
  }

  // Throws where a written array has memory in common with another.
  void require_apart() const {
    for (std::size_t i = 0; i < spans_.size(); ++i) {
      for (std::size_t k = 0; k < i; ++k) {
        const Span &a = spans_[i], &b = spans_[k];
        if ((a.written || b.written) && a.begin < b.end && b.begin < a.end) {
          throw std::invalid_argument(b.name + " and " + a.name +
                                      " share memory: pass a copy of one");
        }
      }
    }
  }

 private:
  struct Span {
    std::string name;
    std::uintptr_t begin, end;
    bool written;
  };
  std::vector<Span> spans_;
};

// Adds the arrays of an argument; `kArrays` is whether it may hold any.
template <class T>
struct Argument {
  static constexpr bool kArrays = std::is_base_of_v<py::array, T>;
  static void add(Memory& memory, const std::string& name, const T& value, bool written) {
    if constexpr (kArrays) memory.add(name, value, written);
  }
};

template <class T>
struct Argument<std::optional<T>> {
  static constexpr bool kArrays = Argument<T>::kArrays;
  static void add(Memory& memory, const std::string& name, const std::optional<T>& value,
                  bool written) {
    if (value) Argument<T>::add(memory, name, *value, written);
  }
};

template <class T>
struct Argument<std::vector<T>> {
  static constexpr bool kArrays = Argument<T>::kArrays;
  static void add(Memory& memory, const std::string& name, const std::vector<T>& values,
                  bool written) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      Argument<T>::add(memory, name + "[" + std::to_string(i) + "]", values[i], written);
    }
  }
};

template <class... T>
struct Argument<std::tuple<T...>> {
  static constexpr bool kArrays = (Argument<T>::kArrays || ...);
  static void add(Memory& memory, const std::string& name, const std::tuple<T...>& values, bool) {
    unsigned i = 0;
    std::apply(
        [&](const T&... each) {
          (add_one(memory, name + "[" + std::to_string(i) + "]", each,
                   (kWritten<std::tuple<T...>> >> i & 1u) != 0, i),
           ...);
        },
        values);
  }

 private:
  template <class Each>
  static void add_one(Memory& memory, const std::string& name, const Each& value, bool written,
                      unsigned& i) {
    Argument<Each>::add(memory, name, value, written);
    ++i;
  }
};

template <class T>
using Bare = std::remove_cv_t<std::remove_reference_t<T>>;

// Arrays are taken as they are, numbers converted.
template <class T>
py::arg named(const char* name) {
  py::arg result(name);
  result.noconvert(Argument<Bare<T>>::kArrays);
  return result;
}

// Defines `function`, whose parameters have these names; with any int, the last is `n_threads`.
template <class Return, class... Args, class... Names>
void define(py::module_& m, const char* name, Return (*function)(Args...), Names... names) {
  static_assert(sizeof...(Args) == sizeof...(Names));
  const std::array<const char*, sizeof...(Args)> all{names...};
  m.def(
      name,
      [function, all](Args... args) -> Return {
        Memory memory;
        std::size_t i = 0;
        (Argument<Bare<Args>>::add(memory, all[i++], args, !std::is_reference_v<Args>), ...);
        memory.require_apart();
        if constexpr ((std::is_same_v<Args, int> || ...)) {
          const int n_threads = std::get<sizeof...(Args) - 1>(std::tie(args...));
          if (n_threads < 1) {
            throw std::invalid_argument("n_threads must be at least 1, got " +
                                        std::to_string(n_threads));
          }
        }
        return function(std::forward<Args>(args)...);
      },
      named<Args>(names)...);
}

}  // namespace
