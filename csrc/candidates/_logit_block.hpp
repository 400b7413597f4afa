// A block of products of states with items that all of them share, which losses turn into
// exponentials in place: float32, or the bits of bfloat16, which are computed on as float32.
#pragma once

#include <cstdint>

#ifdef PDREC_ISA
#include <cmath>
#include <cstring>

#include "lanes.hpp"
#endif

namespace pdrec {

struct LogitBlock {
  void* values;  // [n_rows, n_items], of states with items
  bool half;     // bfloat16
  std::int64_t n_items;
  std::int64_t row;            // stride
  std::int64_t first_row = 0;  // of the batch, to which `values` points
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
namespace {

typedef std::uint16_t HalfVector __attribute__((vector_size(2 * kVector)));

inline Vector load_wide(const float* from) { return load(from); }

inline Vector load_wide(const std::uint16_t* from) {
  HalfVector half;
  std::memcpy(&half, from, sizeof half);
  return (Vector)(__builtin_convertvector(half, WordVector) << 16);
}

inline void store_narrow(const Vector& value, float* to) { store(value, to); }

// To the nearest, ties to even; NaN as the one whose payload no rounding carries away.
inline void store_narrow(const Vector& value, std::uint16_t* to) {
  const WordVector bits = (WordVector)value;
  const WordVector rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const WordVector quiet = WordVector{} + 0x7fc0u;
  const HalfVector half =
      __builtin_convertvector(value == value ? rounded : quiet, HalfVector);
  std::memcpy(to, &half, sizeof half);
}

// The items of a block's columns and what is added to their logits: those of a list.
struct ListedItems {
  const std::int32_t* items;
  const float* offsets;

  IntVector at(std::int64_t i) const {
    IntVector value;
    std::memcpy(&value, items + i, sizeof value);
    return value;
  }
  Vector offset(std::int64_t i) const { return load(offsets + i); }
};

// Items that follow each other.
struct ItemRange {
  std::int32_t first;

  IntVector at(std::int64_t i) const {
    constexpr std::int32_t kCount[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    IntVector value;
    std::memcpy(&value, kCount, sizeof value);
    return value + (first + static_cast<std::int32_t>(i));
  }
  Vector offset(std::int64_t) const { return Vector{}; }
};

// The last columns of a row, fewer than kPartialSums, filled up with its positive.
template <class Element>
struct RowEnd {
  Element values[kPartialSums] = {};
  std::int32_t items[kPartialSums];
  float offsets[kPartialSums] = {};

  RowEnd(const ListedItems& all, const Element* row, std::int64_t start, std::int64_t n,
         std::int32_t positive) {
    for (int i = 0; i < kPartialSums; ++i) items[i] = positive;
    for (std::int64_t i = start; i < n; ++i) {
      values[i - start] = row[i];
      items[i - start] = all.items[i];
      offsets[i - start] = all.offsets[i];
    }
  }

  RowEnd(const ItemRange& all, const Element* row, std::int64_t start, std::int64_t n,
         std::int32_t positive) {
    for (int i = 0; i < kPartialSums; ++i) items[i] = positive;
    for (std::int64_t i = start; i < n; ++i) {
      values[i - start] = row[i];
      items[i - start] = all.first + static_cast<std::int32_t>(i);
    }
  }

  ListedItems columns() const { return {items, offsets}; }
};

// What a row's exponentials need: products times `scale` are logits but for the offset, and the
// item `positive` is left out.
struct RowOfBlock {
  float scale;
  std::int32_t positive;
  float largest;  // of the logits: what exponentials are relative to
};

// Sums over the columns: of exponentials, and of these times their logits without the offsets.
struct RowSums {
  double exponentials;
  double slopes_times_logits;
};

template <class Items, class Element>
inline void take_largest(const Items& items, const Element* values, const RowOfBlock& row,
                         std::int64_t i, Vector (&most)[kParts]) {
  for (int p = 0; p < kParts; ++p, i += kVector) {
    const Vector logits = load_wide(values + i) * row.scale + items.offset(i);
    const Vector counted = items.at(i) == row.positive ? broadcast(-INFINITY) : logits;
    most[p] = counted > most[p] ? counted : most[p];
  }
}

// The largest logit, or row.largest where that is larger. NaN is passed over: sums show it.
template <class Items, class Element>
inline float largest_logit(const Items& items, const Element* values, std::int64_t n,
                           const RowOfBlock& row) {
  Vector most[kParts];
  for (int p = 0; p < kParts; ++p) most[p] = broadcast(0.0f) + row.largest;
  std::int64_t i = 0;
  for (; i + kPartialSums <= n; i += kPartialSums) take_largest(items, values, row, i, most);
  if (i < n) {
    const RowEnd<Element> end(items, values, i, n, row.positive);
    take_largest(end.columns(), end.values, row, 0, most);
  }
  float lanes[kPartialSums];
  std::memcpy(lanes, most, sizeof lanes);
  float largest = lanes[0];
  for (int lane = 1; lane < kPartialSums; ++lane) {
    largest = lanes[lane] > largest ? lanes[lane] : largest;
  }
  return largest;
}

template <class Items, class Element>
inline void take_exponentials(const Items& items, Element* values, const RowOfBlock& row,
                              std::int64_t i, Vector (&sums)[kParts], Vector (&products)[kParts]) {
  for (int p = 0; p < kParts; ++p, i += kVector) {
    const Vector logits = load_wide(values + i) * row.scale;
    const Vector all = exp_negative(logits + items.offset(i) - row.largest);
    const Vector counted = items.at(i) == row.positive ? Vector{} : all;
    sums[p] += counted;
    products[p] += counted * logits;
    store_narrow(counted, values + i);
  }
}

// Puts exp(logit - row.largest) in the place of every value, 0 in that of the positive, and returns
// the sums. In double beyond a few thousand, so that a large corpus keeps its digits.
template <class Items, class Element>
inline RowSums make_exponentials(const Items& items, Element* values, std::int64_t n,
                                 const RowOfBlock& row) {
  constexpr std::int64_t kSegment = 4096;
  RowSums all{0.0, 0.0};
  for (std::int64_t start = 0; start < n; start += kSegment) {
    const std::int64_t stop = n - start < kSegment ? n : start + kSegment;
    Vector sums[kParts] = {}, products[kParts] = {};
    std::int64_t i = start;
    for (; i + kPartialSums <= stop; i += kPartialSums) {
      take_exponentials(items, values, row, i, sums, products);
    }
    if (i < stop) {
      RowEnd<Element> end(items, values, i, stop, row.positive);
      take_exponentials(end.columns(), end.values, row, 0, sums, products);
      for (std::int64_t k = i; k < stop; ++k) values[k] = end.values[k - i];
    }
    all.exponentials += total(sums);
    all.slopes_times_logits += total(products);
  }
  return all;
}

// Calls function(pointer to the first value of a row, as its type is).
template <class Function>
inline void for_row_values(const LogitBlock& block, std::int64_t row, const Function& function) {
  const std::int64_t at = (row - block.first_row) * block.row;
  if (block.half) {
    function(static_cast<std::uint16_t*>(block.values) + at);
  } else {
    function(static_cast<float*>(block.values) + at);
  }
}

}  // namespace
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
