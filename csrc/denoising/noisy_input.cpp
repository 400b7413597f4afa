#include "denoising/noisy_input.hpp"

#include <cmath>
#include <cstring>

#include "counter_rng.hpp"
#include "float_bits.hpp"
#include "random_keys.hpp"

namespace pdrec::PDREC_ISA {
namespace {

// The words are odd numerators of fractions of 2^25: u = (2 (w >> 8) + 1) / 2^25.
constexpr std::int32_t kHalfTurn = 1 << 24;
constexpr float kUnit = 1.0f / (1 << 25);

// -value where the lowest bit of `odd` is set, without a branch.
float negate_if_odd(std::int32_t odd, float value) {
  const auto sign = static_cast<std::int32_t>(static_cast<std::uint32_t>(odd) << 31);
  return bits_to_float(float_to_bits(value) ^ sign);
}

float log1p_polynomial(float f) {
  float q = -0.0810153857f;
  q = q * f + 0.127123077f;
  q = q * f - 0.129722388f;
  q = q * f + 0.142021738f;
  q = q * f - 0.166422476f;
  q = q * f + 0.200014686f;
  q = q * f - 0.250002965f;
  q = q * f + 0.333333286f;
  const float square = f * f;
  return f * square * q - 0.5f * square + f;
}

// ln(m / 2^25) for odd m. Above 1/2 a float cannot hold m / 2^25, but it holds m / 2^25 - 1, which
// keeps the full relative precision near 1, where the logarithm vanishes.
float log_fraction(std::int32_t m) {
  constexpr std::int32_t kSqrtHalfBits = 0x3f3504f3;
  const std::int32_t offset = float_to_bits(static_cast<float>(m) * kUnit) - kSqrtHalfBits;
  const std::int32_t exponent = offset >> 23;
  const float mantissa = bits_to_float((offset & 0x7fffff) + kSqrtHalfBits);
  const float below_one = static_cast<float>(m - 2 * kHalfTurn) * kUnit;
  const float scale = static_cast<float>(exponent);  // above 1/2: 0 or -1
  const float exact = (1.0f - scale) * below_one - scale;
  const float f = select(m >= kHalfTurn, exact, mantissa - 1.0f);
  return scale * 0.693147181f + log1p_polynomial(f);
}

// Two independent normals from two words (Box and Muller, 1958).
void normal_pair(std::uint32_t word0, std::uint32_t word1, float& first, float& second) {
  const auto m0 = static_cast<std::int32_t>(word0 >> 8 << 1 | 1u);
  const auto m1 = static_cast<std::int32_t>(word1 >> 8 << 1 | 1u);
  const float radius = std::sqrt(-2.0f * log_fraction(m0));
  // The angle is a number of quarter turns plus at most an eighth of a turn.
  const std::int32_t quarter = (m1 + (1 << 22)) >> 23;
  const float angle = static_cast<float>(m1 - (quarter << 23)) * (6.28318531f * kUnit);
  const float z = angle * angle;
  const float sine =
      angle + angle * z * ((-0.00019587950f * z + 0.00833274863f) * z - 0.166666647f);
  const float cosine =
      z * z * ((2.45479913e-05f * z - 0.00138883033f) * z + 0.0416666647f) - 0.5f * z + 1.0f;
  const bool swapped = (quarter & 1) != 0;
  first = radius * negate_if_odd((quarter + 1) >> 1, select(swapped, sine, cosine));
  second = radius * negate_if_odd(quarter >> 1, select(swapped, cosine, sine));
}

void store(float value, float& out) { out = value; }

// To bfloat16, ties to even.
void store(float value, std::uint16_t& out) {
  const auto bits = static_cast<std::uint32_t>(float_to_bits(value));
  out = static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void add_noise(const PhiloxStream& id, std::uint32_t block, float sigma, float* state) {
  std::uint32_t lanes[4][kLanes];
  float normal_lanes[4][kLanes];
  float normals[kWordsPerCall];
  philox_blocks(id, block, lanes);
  for (int j = 0; j < 4; j += 2) {
    for (int lane = 0; lane < kLanes; ++lane) {
      normal_pair(lanes[j][lane], lanes[j + 1][lane], normal_lanes[j][lane],
                  normal_lanes[j + 1][lane]);
    }
  }
  interleave(normal_lanes, normals);
  for (int i = 0; i < kWordsPerCall; ++i) state[i] += sigma * normals[i];
}

void drop_out(const PhiloxStream& id, std::uint32_t block, std::uint32_t keep_from,
              float keep_scale, float* state) {
  std::uint32_t words[kWordsPerCall];
  philox_words(id, block, words);
  for (int i = 0; i < kWordsPerCall; ++i) {
    state[i] = select(words[i] >= keep_from, keep_scale * state[i], 0.0f);
  }
}

}  // namespace

template <class Out>
void noisy_input(const NoisyInputArgs& args, Out* out, std::int64_t begin, std::int64_t end,
                 float* signal_row) {
  float state[kWordsPerCall];
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t k = args.indptr[row]; k < args.indptr[row + 1]; ++k) {
      signal_row[args.items[k]] = args.signal[row] * args.values[k];
    }
    const auto user = static_cast<std::uint32_t>(args.users[row]);
    const PhiloxStream noise{args.seed, user, args.epoch, random_keys::NOISE};
    const PhiloxStream dropout{args.seed, user, args.epoch, random_keys::DROPOUT};
    Out* out_row = out + row * args.n_items;
    for (std::int64_t first = 0; first < args.n_items; first += kWordsPerCall) {
      const std::uint32_t block = args.first_block + static_cast<std::uint32_t>(first / 4);
      std::memcpy(state, signal_row + first, sizeof state);
      if (args.sigma[row] != 0.0f) add_noise(noise, block, args.sigma[row], state);
      if (args.dropout) drop_out(dropout, block, args.keep_from, args.keep_scale, state);
      const std::int64_t left = args.n_items - first;
      const int width = left < kWordsPerCall ? static_cast<int>(left) : kWordsPerCall;
      for (int i = 0; i < width; ++i) store(state[i], out_row[first + i]);
    }
    for (std::int64_t k = args.indptr[row]; k < args.indptr[row + 1]; ++k) {
      signal_row[args.items[k]] = 0.0f;
    }
  }
}

template void noisy_input<float>(const NoisyInputArgs&, float*, std::int64_t, std::int64_t, float*);
template void noisy_input<std::uint16_t>(const NoisyInputArgs&, std::uint16_t*, std::int64_t,
                                         std::int64_t, float*);

}  // namespace pdrec::PDREC_ISA
