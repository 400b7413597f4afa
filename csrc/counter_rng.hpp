// Philox4x32-10 (Salmon et al., SC 2011), computed for many counters at once.
//
// key = (low, high) words of the seed; counter = (block, user, epoch, stream). Word j of a
// (user, epoch, stream) is word j % 4 of block j / 4.
#pragma once

#include <cstdint>
#if defined(PDREC_ISA) && defined(__AVX512F__)
#include <immintrin.h>
#endif

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

// philox_blocks: words[j][lane] = word j of block first_block + lane.
#if defined(__AVX512F__)
// Counters lie in the lower halves of 64-bit lanes; a multiplication does not read the upper ones
// and gives both halves of its product.
inline void philox_blocks(const PhiloxStream& id, std::uint32_t first_block,
                          std::uint32_t (&words)[4][kLanes]) {
  constexpr int kWide = 8;
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m2 = _mm512_set1_epi64(0xCD9E8D57);
  for (int lane = 0; lane < kLanes; lane += kWide) {
    __m512i c0 = _mm512_add_epi32(_mm512_set1_epi64(first_block + static_cast<std::uint32_t>(lane)),
                                  _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
    __m512i c1 = _mm512_set1_epi64(id.user), c2 = _mm512_set1_epi64(id.epoch),
            c3 = _mm512_set1_epi64(id.stream);
    std::uint32_t k0 = static_cast<std::uint32_t>(id.seed);
    std::uint32_t k1 = static_cast<std::uint32_t>(id.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const __m512i p0 = _mm512_mul_epu32(c0, m0), p2 = _mm512_mul_epu32(c2, m2);
      c0 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(p2, 32), c1),
                            _mm512_set1_epi64(k0));
      c1 = p2;
      c2 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(p0, 32), c3),
                            _mm512_set1_epi64(k1));
      c3 = p0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    _mm512_mask_cvtepi64_storeu_epi32(words[0] + lane, 0xff, c0);
    _mm512_mask_cvtepi64_storeu_epi32(words[1] + lane, 0xff, c1);
    _mm512_mask_cvtepi64_storeu_epi32(words[2] + lane, 0xff, c2);
    _mm512_mask_cvtepi64_storeu_epi32(words[3] + lane, 0xff, c3);
  }
}
#else
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

#endif

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
