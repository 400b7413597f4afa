// Layer norms of tokens [n, width] and their gradients.
#pragma once

#include <cmath>

#include "packed/_columns.hpp"

namespace pdrec::PDREC_ISA {
namespace {

struct Statistics {
  float mean, inverse;  // inverse = 1 / sqrt(variance + eps)
};

inline Statistics statistics_of(const float* y, std::int64_t width, float eps) {
  Columns sum = {}, squares = {};
  for (std::int64_t j = 0; j < width; j += kPartialSums) sum = sum + load_columns(y + j, width - j);
  const float mean = total(sum.part) / static_cast<float>(width);
  for (std::int64_t j = 0; j < width; j += kPartialSums) {
    const Columns difference = centred(y + j, width - j, mean);
    squares = squares + difference * difference;
  }
  const float variance = total(squares.part) / static_cast<float>(width);
  return {mean, 1.0f / std::sqrt(variance + eps)};
}

struct Norm {
  std::int64_t n_tokens, width;
  float eps;
  const float* gain;
  const float* shift;
};

// y = x, or x + added where that is given, which y replaces; out = (y - mean) inverse gain + shift.
inline void normalise(const Norm& norm, const float* x, float* added, float* out,
                      float* statistics) {
  const std::int64_t width = norm.width;
  for (std::int64_t token = 0; token < norm.n_tokens; ++token) {
    const std::int64_t at = token * width;
    const float* y = x + at;
    if (added) {
      for (std::int64_t j = 0; j < width; j += kPartialSums) {
        const std::int64_t left = width - j;
        store_columns(load_columns(y + j, left) + load_columns(added + at + j, left),
                      added + at + j, left);
      }
      y = added + at;
    }
    const Statistics of = statistics_of(y, width, norm.eps);
    statistics[2 * token] = of.mean;
    statistics[2 * token + 1] = of.inverse;
    for (std::int64_t j = 0; j < width; j += kPartialSums) {
      const std::int64_t left = width - j;
      const Columns normalised = (load_columns(y + j, left) - of.mean) * of.inverse;
      store_columns(normalised * load_columns(norm.gain + j, left) +
                        load_columns(norm.shift + j, left),
                    out + at + j, left);
    }
  }
}

struct NormGradient {
  float* gain;   // each [width], added to
  float* shift;
  float* added;  // the sum of the gradients of y over tokens; or null
};

// Of the gradient grad + grad_other of `out`: that of y, added to what grad_y holds where `add`.
inline void norm_gradient(const Norm& norm, const float* grad, const float* grad_other,
                          const float* y, const float* statistics, bool add, float* grad_y,
                          const NormGradient& of) {
  const std::int64_t width = norm.width;
  const float scale = 1.0f / static_cast<float>(width);
  for (std::int64_t token = 0; token < norm.n_tokens; ++token) {
    const std::int64_t at = token * width;
    const float centre = statistics[2 * token], inverse = statistics[2 * token + 1];
    Columns sum = {}, projection = {};
    for (std::int64_t j = 0; j < width; j += kPartialSums) {
      const std::int64_t left = width - j;
      const Columns g = load_columns(grad + at + j, left) + load_columns(grad_other + at + j, left);
      const Columns normalised = centred(y + at + j, left, centre) * inverse;
      const Columns scaled = g * load_columns(norm.gain + j, left);
      add_columns(g * normalised, of.gain + j, left);
      add_columns(g, of.shift + j, left);
      sum = sum + scaled;
      projection = projection + scaled * normalised;
    }
    const float mean = total(sum.part) * scale, along = total(projection.part) * scale;
    for (std::int64_t j = 0; j < width; j += kPartialSums) {
      const std::int64_t left = width - j;
      const Columns g = load_columns(grad + at + j, left) + load_columns(grad_other + at + j, left);
      const Columns normalised = centred(y + at + j, left, centre) * inverse;
      const Columns scaled = g * load_columns(norm.gain + j, left);
      Columns result = (scaled - mean - normalised * along) * inverse;
      if (of.added) add_columns(result, of.added + j, left);
      if (add) result = result + load_columns(grad_y + at + j, left);
      store_columns(result, grad_y + at + j, left);
    }
  }
}

}  // namespace
}  // namespace pdrec::PDREC_ISA
