#include "packed/sasrec_block.hpp"

#include <cmath>

#include "counter_rng.hpp"
#include "lanes.hpp"

namespace pdrec::PDREC_ISA {
namespace {

// 16 neighbouring columns of a token. Beyond the width they read as 0 and are not written.
struct Columns {
  Vector part[kParts];
};

inline Columns load_columns(const float* from, std::int64_t left) {
  Columns columns = {};
  if (left >= kPartialSums) {
    for (int i = 0; i < kParts; ++i) columns.part[i] = load(from + i * kVector);
  } else {
    std::memcpy(&columns, from, 4 * static_cast<std::size_t>(left));
  }
  return columns;
}

inline void store_columns(const Columns& columns, float* to, std::int64_t left) {
  if (left >= kPartialSums) {
    for (int i = 0; i < kParts; ++i) store(columns.part[i], to + i * kVector);
  } else {
    std::memcpy(to, &columns, 4 * static_cast<std::size_t>(left));
  }
}

inline Columns operator+(const Columns& a, const Columns& b) {
  Columns sum;
  for (int i = 0; i < kParts; ++i) sum.part[i] = a.part[i] + b.part[i];
  return sum;
}

inline Columns operator-(const Columns& a, const Columns& b) {
  Columns difference;
  for (int i = 0; i < kParts; ++i) difference.part[i] = a.part[i] - b.part[i];
  return difference;
}

inline Columns operator*(const Columns& a, const Columns& b) {
  Columns product;
  for (int i = 0; i < kParts; ++i) product.part[i] = a.part[i] * b.part[i];
  return product;
}

inline Columns operator-(const Columns& a, float b) {
  Columns difference;
  for (int i = 0; i < kParts; ++i) difference.part[i] = a.part[i] - b;
  return difference;
}

inline Columns operator*(const Columns& a, float b) {
  Columns product;
  for (int i = 0; i < kParts; ++i) product.part[i] = a.part[i] * b;
  return product;
}

// to[0 .. left) += columns.
inline void add_columns(const Columns& columns, float* to, std::int64_t left) {
  store_columns(load_columns(to, left) + columns, to, left);
}

inline void fill_zero(float* row, std::int64_t width) {
  if (row) std::memset(row, 0, 4 * static_cast<std::size_t>(width));
}

// x - mean, but 0 beyond the width.
inline Columns centred(const float* x, std::int64_t left, float mean) {
  Columns columns = load_columns(x, left) - mean;
  if (left < kPartialSums) {
    std::memset(reinterpret_cast<float*>(&columns) + left, 0,
                4 * static_cast<std::size_t>(kPartialSums - left));
  }
  return columns;
}

struct Statistics {
  float mean, inverse;
};

Statistics statistics_of(const float* y, std::int64_t width, float eps) {
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

// Of one group of columns: the gradient by out, and y normalised.
struct NormGradient {
  Columns grad, normalised;
};

inline NormGradient norm_gradient(const NormGradientArgs& args, std::int64_t at, std::int64_t left,
                                  const Statistics& statistics) {
  Columns grad = load_columns(args.grad + at, left);
  if (args.grad_other) grad = grad + load_columns(args.grad_other + at, left);
  return {grad, centred(args.y + at, left, statistics.mean) * statistics.inverse};
}

void clear_gradients(const NormGradientArgs& args) {
  fill_zero(args.grad_gain, args.width);
  fill_zero(args.grad_shift, args.width);
  fill_zero(args.grad_bias, args.width);
}

// `count` elements from column `column` on, which have `words`; moves `column` on.
inline void drop(const BiasDropoutArgs& args, std::int64_t at, std::int64_t count,
                 const std::uint32_t* words, std::int64_t& column) {
  const SequenceDropout& dropout = args.dropout;
  std::int64_t i = 0;
  for (; i + kVector <= count; i += kVector) {
    const Vector v = (load(args.x + at + i) + load(args.bias + column)) * dropout.keep_scale;
    const Vector kept = load(words + i) >= dropout.keep_from ? v : Vector{};
    // As written, NaN stays NaN.
    store(args.residual ? load(args.residual + at + i) + kept : (kept < 0.0f ? Vector{} : kept),
          args.out + at + i);
    for (column += kVector; column >= args.width;) column -= args.width;
  }
  for (; i < count; ++i) {
    const float v = (args.x[at + i] + args.bias[column]) * dropout.keep_scale;
    const float kept = words[i] >= dropout.keep_from ? v : 0.0f;
    args.out[at + i] = args.residual ? args.residual[at + i] + kept : (kept < 0.0f ? 0.0f : kept);
    if (++column == args.width) column = 0;
  }
  if (args.kept) {
    for (i = 0; i < count; ++i) args.kept[at + i] = words[i] >= dropout.keep_from;
  }
}

// The gradient before dropout, and before ReLU where that followed.
inline Columns undropped(const DropoutGradientArgs& args, std::int64_t at, std::int64_t left) {
  Columns grad = load_columns(args.grad + at, left);
  if (args.rectified) {
    const Columns rectified = load_columns(args.rectified + at, left);
    for (int i = 0; i < kParts; ++i) {
      grad.part[i] = rectified.part[i] > 0.0f ? grad.part[i] * args.keep_scale : Vector{};
    }
  } else if (args.kept) {
    std::uint32_t kept[kPartialSums] = {};
    const std::int64_t count = left < kPartialSums ? left : kPartialSums;
    for (std::int64_t i = 0; i < count; ++i) kept[i] = args.kept[at + i];
    for (int i = 0; i < kParts; ++i) {
      grad.part[i] = load(kept + i * kVector) > 0 ? grad.part[i] * args.keep_scale : Vector{};
    }
  }
  return grad;
}

}  // namespace

void block_norm(const NormArgs& args) {
  const std::int64_t width = args.width;
  for (std::int64_t token = 0; token < args.n_tokens; ++token) {
    const std::int64_t at = token * width;
    const float* y = args.x + at;
    if (args.added) {
      float* sum = args.added + at;
      for (std::int64_t j = 0; j < width; j += kPartialSums) {
        const std::int64_t left = width - j;
        const Columns biased = load_columns(sum + j, left) + load_columns(args.bias + j, left);
        store_columns(load_columns(y + j, left) + biased, sum + j, left);
      }
      y = sum;
    }
    const Statistics statistics = statistics_of(y, width, args.eps);
    args.statistics[2 * token] = statistics.mean;
    args.statistics[2 * token + 1] = statistics.inverse;
    for (std::int64_t j = 0; j < width; j += kPartialSums) {
      const std::int64_t left = width - j;
      const Columns normalised =
          (load_columns(y + j, left) - statistics.mean) * statistics.inverse;
      store_columns(normalised * load_columns(args.gain + j, left) +
                        load_columns(args.shift + j, left),
                    args.out + at + j, left);
    }
  }
}

void block_norm_gradient(const NormGradientArgs& args) {
  const std::int64_t width = args.width;
  const float scale = 1.0f / static_cast<float>(width);
  clear_gradients(args);
  for (std::int64_t token = 0; token < args.n_tokens; ++token) {
    const std::int64_t at = token * width;
    const Statistics statistics{args.statistics[2 * token], args.statistics[2 * token + 1]};
    Columns sum = {}, projection = {};
    for (std::int64_t j = 0; j < width; j += kPartialSums) {
      const std::int64_t left = width - j;
      const NormGradient g = norm_gradient(args, at + j, left, statistics);
      const Columns scaled = g.grad * load_columns(args.gain + j, left);
      add_columns(g.grad * g.normalised, args.grad_gain + j, left);
      add_columns(g.grad, args.grad_shift + j, left);
      sum = sum + scaled;
      projection = projection + scaled * g.normalised;
    }
    const float mean = total(sum.part) * scale, along = total(projection.part) * scale;
    for (std::int64_t j = 0; j < width; j += kPartialSums) {
      const std::int64_t left = width - j;
      const NormGradient g = norm_gradient(args, at + j, left, statistics);
      const Columns scaled = g.grad * load_columns(args.gain + j, left);
      Columns grad = (scaled - mean - g.normalised * along) * statistics.inverse;
      if (args.grad_bias) add_columns(grad, args.grad_bias + j, left);
      if (args.add) grad = grad + load_columns(args.grad_y + at + j, left);
      store_columns(grad, args.grad_y + at + j, left);
    }
  }
}

void block_dropout(const BiasDropoutArgs& args) {
  std::uint32_t words[kWordsPerCall] = {};
  for (std::int64_t row = 0; row < args.n_sequences; ++row) {
    const PhiloxStream id{args.dropout.seed, static_cast<std::uint32_t>(args.dropout.users[row]),
                          args.dropout.epoch, args.dropout.stream};
    const std::int64_t begin = args.indptr[row] * args.width;
    const std::int64_t size = args.indptr[row + 1] * args.width - begin;
    std::int64_t column = 0;
    for (std::int64_t first = 0; first < size; first += kWordsPerCall) {
      if (args.dropout.keep_from) {
        philox_words(id, static_cast<std::uint32_t>(first / 4), words);
      }
      const std::int64_t left = size - first;
      drop(args, begin + first, left < kWordsPerCall ? left : kWordsPerCall, words, column);
    }
  }
}

void block_dropout_gradient(const DropoutGradientArgs& args) {
  fill_zero(args.grad_bias, args.width);
  for (std::int64_t token = 0; token < args.n_tokens; ++token) {
    for (std::int64_t j = 0; j < args.width; j += kPartialSums) {
      const std::int64_t at = token * args.width + j, left = args.width - j;
      const Columns grad = undropped(args, at, left);
      if (args.grad_x) store_columns(grad, args.grad_x + at, left);
      add_columns(grad, args.grad_bias + j, left);
    }
  }
}

}  // namespace pdrec::PDREC_ISA
