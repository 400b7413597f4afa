// Inverted dropout of packed sequences; its random words belong to (seed, epoch, user, stream).
#pragma once

#include <cstdint>

namespace pdrec {

struct SequenceDropout {
  std::uint32_t keep_from;  // an element is kept where its word is at least this; 0 keeps all
  float keep_scale;         // 1 / (1 - p)
  std::uint64_t seed;
  std::uint32_t epoch;
  std::uint32_t stream;
  const std::int64_t* users;  // [n_sequences]
};

struct PackedDropoutArgs {
  std::int64_t n_sequences;
  std::int64_t width;
  const std::int64_t* indptr;  // [n_sequences + 1]
  const float* x;              // [indptr[n_sequences], width]
  SequenceDropout dropout;
  float* out;  // the shape of x
};

#ifdef PDREC_ISA
namespace PDREC_ISA {
// Word c of a sequence is that of its c-th element, counted token by token.
void packed_dropout(const PackedDropoutArgs& args, std::int64_t begin, std::int64_t end);
}
#endif

}  // namespace pdrec
