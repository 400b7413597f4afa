// The streams of the counter-based generator, as in pdrec_fast/random_keys.py, which says what each
// is for. Epochs and users come from Python with their offsets added.
#pragma once

#include <cstdint>

namespace pdrec::random_keys {

constexpr std::uint32_t NOISE = 0;
constexpr std::uint32_t DROPOUT = 1;
constexpr std::uint32_t NEGATIVES = 2;
constexpr std::uint32_t VIEWS = 3;
constexpr std::uint32_t ENCODER = 16;  // and on: an encoder's dropouts

}  // namespace pdrec::random_keys
