// What lies between the matrix products of a SASRec block: layer norms with the residual before
// them, bias with dropout and ReLU, and the gradients of both with those of their parameters. The
// products are the caller's. Each function works through all tokens it is given, one after another.
#pragma once

#include <cstdint>

#include "packed/packed_dropout.hpp"

namespace pdrec {

// y = x + (added + bias) where `added` is given, else x; out = (y - mean) inverse gain + shift,
// inverse = 1 / sqrt(variance + eps).
struct NormArgs {
  std::int64_t n_tokens;
  std::int64_t width;
  const float* x;
  const float* bias;  // [width]; with `added` alone
  const float* gain;
  const float* shift;
  float eps;
  float* added;       // replaced by y; or null
  float* out;
  float* statistics;  // [n_tokens, 2]: mean, inverse
};

// Of a gradient g by `out` (the sum of two where `grad_other` is given): by y, and by the
// parameters.
struct NormGradientArgs {
  std::int64_t n_tokens;
  std::int64_t width;
  const float* grad;
  const float* grad_other;  // or null
  const float* y;
  const float* statistics;
  const float* gain;
  bool add;                 // to what grad_y holds
  float* grad_y;
  float* grad_gain;         // [width], and so on
  float* grad_shift;
  float* grad_bias;         // the sum of grad_y over tokens; or null
};

// v = dropout(x + bias); out = max(v, 0), or residual + v where that is given.
struct BiasDropoutArgs {
  std::int64_t n_sequences;
  std::int64_t width;
  const std::int64_t* indptr;
  const float* bias;      // [width + kBiasSlack], repeated from the start after the width
  SequenceDropout dropout;
  const float* x;
  const float* residual;  // or null
  std::uint8_t* kept;     // of every element whether it was kept; or null
  float* out;
};
constexpr std::int64_t kBiasSlack = 16;

// grad_x = grad keep_scale where the element passed, else 0; grad_bias its sum over tokens.
struct DropoutGradientArgs {
  std::int64_t n_tokens;
  std::int64_t width;
  const float* grad;
  const float* rectified;    // what passed is positive here; or null:
  const std::uint8_t* kept;  // what passed; or null too: all, and grad_x is grad
  float keep_scale;
  float* grad_x;             // or null, to have grad_bias alone
  float* grad_bias;          // [width]
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
void block_norm(const NormArgs& args);
void block_norm_gradient(const NormGradientArgs& args);
void block_dropout(const BiasDropoutArgs& args);
void block_dropout_gradient(const DropoutGradientArgs& args);
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
