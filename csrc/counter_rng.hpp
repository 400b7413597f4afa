// Philox4x32-10 (Salmon et al., SC 2011), computed for many counters at once.
//
// key = (low, high) words of the seed; counter = (block, user, epoch, stream). Word j of a
// (user, epoch, stream) is word j % 4 of block j / 4.
#pragma once

#include <cstdint>

namespace pdrec {

struct RandomWordsArgs {
  std::uint64_t seed;
  std::uint32_t epoch;
  std::uint32_t stream;
  const std::int64_t* users;  // [n_rows]
  std::int64_t n_words;
  std::uint32_t* out;  // [n_rows, n_words]
};

#ifdef PDREC_ISA
namespace PDREC_ISA {

void random_words(const RandomWordsArgs& args, std::int64_t begin, std::int64_t end);

namespace {

// More than the 16 iterations that GCC unrolls before it tries to vectorise.
constexpr int kLanes = 32;
constexpr int kWordsPerCall = 4 * kLanes;

struct PhiloxStream {
  std::uint64_t seed;
  std::uint32_t user;
  std::uint32_t epoch;
  std::uint32_t stream;
};

inline std::uint32_t multiply_high(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint32_t>(std::uint64_t{a} * b >> 32);
}

// words[j][lane] = word j of block first_block + lane.
inline void philox_blocks(const PhiloxStream& id, std::uint32_t first_block,
                          std::uint32_t (&words)[4][kLanes]) {
  std::uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    c0[lane] = first_block + static_cast<std::uint32_t>(lane);
    c1[lane] = id.user;
    c2[lane] = id.epoch;
    c3[lane] = id.stream;
  }
  std::uint32_t k0 = static_cast<std::uint32_t>(id.seed);
  std::uint32_t k1 = static_cast<std::uint32_t>(id.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::uint32_t high0 = multiply_high(0xD2511F53u, c0[lane]);
      const std::uint32_t high2 = multiply_high(0xCD9E8D57u, c2[lane]);
      const std::uint32_t low0 = 0xD2511F53u * c0[lane];
      const std::uint32_t low2 = 0xCD9E8D57u * c2[lane];
      c0[lane] = high2 ^ c1[lane] ^ k0;
      c1[lane] = low2;
      c2[lane] = high0 ^ c3[lane] ^ k1;
      c3[lane] = low0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    words[0][lane] = c0[lane];
    words[1][lane] = c1[lane];
    words[2][lane] = c2[lane];
    words[3][lane] = c3[lane];
  }
}

// From lanes, one block each, to the order of the words.
template <class T>
inline void interleave(const T (&lanes)[4][kLanes], T* words) {
  for (int lane = 0; lane < kLanes; ++lane) {
    words[4 * lane] = lanes[0][lane];
    words[4 * lane + 1] = lanes[1][lane];
    words[4 * lane + 2] = lanes[2][lane];
    words[4 * lane + 3] = lanes[3][lane];
  }
}

// words[0 .. kWordsPerCall) from block first_block on.
inline void philox_words(const PhiloxStream& id, std::uint32_t first_block, std::uint32_t* words) {
  std::uint32_t lanes[4][kLanes];
  philox_blocks(id, first_block, lanes);
  interleave(lanes, words);
}

}  // namespace
}  // namespace PDREC_ISA
#endif

}  // namespace pdrec
