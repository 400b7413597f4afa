// Selection by sampling, after Floyd and Rivest (1975): a sorted sample brackets the wanted rank
// between two scores, one pass counts what lies above the bracket and collects what lies in it, and
// the search goes on in there. Counts decide, so the result is exact; a bracket that missed is
// widened.
#include "selection/select_unobserved.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "selection/_compare.hpp"

namespace pdrec::PDREC_ISA {
namespace {

constexpr int kSampleSize = 256;
constexpr std::int32_t kFinishBelow = 512;
constexpr double kFirstSpread = 1.5;  // standard deviations between a rank and its bracket's ends
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct KeyLess {
  bool operator()(SelectionKey a, SelectionKey b) const { return a.bits < b.bits; }
};

struct PositionLess {
  bool operator()(std::int32_t a, std::int32_t b) const { return a < b; }
};

struct Observed {
  const std::int32_t* items;
  std::int32_t n;
};

struct Bracket {
  float low;
  float high;
};

// Sorted in descending order.
struct Sample {
  float scores[kSampleSize];
  int n;
};

// The positions of a band's values lie in the scratch.
struct Band {
  std::int32_t above;
  std::int32_t n;
  Bracket bracket;
};

struct Candidates {
  std::int32_t n;
  std::int32_t rank;  // of the wanted one among them
};

// As the Triton kernel's pack_key, in unsigned numbers.
SelectionKey pack_key(float score, std::int32_t position) {
  score += 0.0f;  // -0 becomes +0
  std::uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  const std::uint32_t descending = (bits >> 31) ? bits : ~bits & 0x7fffffffu;
  return {std::uint64_t{descending} << 32 | static_cast<std::uint32_t>(position)};
}

std::int32_t unpack_position(SelectionKey key) { return static_cast<std::int32_t>(key.bits); }

std::int32_t find_nan(const float* values, std::int32_t n) {
  int any = 0;
  for (std::int32_t i = 0; i < n; ++i) any |= values[i] != values[i];
  if (!any) return -1;
  std::int32_t i = 0;
  while (values[i] == values[i]) ++i;
  return i;
}

// Evenly spaced unobserved values, sorted by counting for each how many are greater: no branch, and
// vectorised. Equal values share the first of their places; the others are filled in after.
void draw_sample(const float* values, std::int32_t n, Observed observed, Sample& sample) {
  float drawn[kSampleSize];
  std::int32_t greater[kSampleSize] = {};
  const std::int32_t n_drawn = std::min<std::int32_t>(n, kSampleSize);
  std::int32_t next_observed = 0;
  sample.n = 0;
  for (std::int32_t i = 0; i < n_drawn; ++i) {
    const auto position = static_cast<std::int32_t>((2 * i + 1) * std::int64_t{n} / (2 * n_drawn));
    while (next_observed < observed.n && observed.items[next_observed] < position) ++next_observed;
    if (next_observed < observed.n && observed.items[next_observed] == position) continue;
    drawn[sample.n++] = values[position];
  }
  std::fill(drawn + sample.n, drawn + kSampleSize, -kInfinity);
  for (int j = 0; j < sample.n; ++j) {
    for (int i = 0; i < kSampleSize; ++i) greater[i] += drawn[j] > drawn[i];
  }
  std::fill(sample.scores, sample.scores + sample.n, kInfinity);
  for (int i = 0; i < sample.n; ++i) sample.scores[greater[i]] = drawn[i];
  for (int i = 1; i < sample.n; ++i) {
    sample.scores[i] = std::min(sample.scores[i], sample.scores[i - 1]);
  }
}

Bracket bracket_rank(const Sample& sample, double quantile, double spread) {
  const double center = quantile * sample.n;
  const double half = spread * (std::sqrt(center * (1.0 - quantile)) + 1.0);
  const double first = center - half;
  const double last = center + half;
  return {last < sample.n ? sample.scores[static_cast<int>(last)] : -kInfinity,
          first >= 0.0 ? sample.scores[static_cast<int>(first)] : kInfinity};
}

// The unobserved values within the bracket, ascending by position, and how many lie above it.
Band collect_band(const float* values, std::int32_t n, Observed observed, Bracket bracket,
                  std::int32_t* positions) {
  Band band{0, 0, bracket};
  for (std::int64_t start = 0; start < n; start += 64) {
    const auto base = static_cast<std::int32_t>(start);
    const int width = static_cast<int>(std::min<std::int32_t>(64, n - base));
    const BandMask mask = compare_band(values + base, width, bracket.low, bracket.high);
    band.above += __builtin_popcountll(mask.above_high);
    band.n += write_positions(mask.at_least_low & ~mask.above_high, base, positions + band.n);
  }
  // Cut the observed out, moving up what lies between them.
  std::int32_t kept = 0;
  std::int32_t from = 0;
  const auto keep_until = [&](std::int32_t stop) {
    std::memmove(positions + kept, positions + from, sizeof(std::int32_t) * (stop - from));
    kept += stop - from;
  };
  for (std::int32_t i = 0; i < observed.n; ++i) {
    const float value = values[observed.items[i]];
    band.above -= value > bracket.high;
    if (value > bracket.high || value < bracket.low) continue;
    const std::int32_t* at = std::lower_bound(positions + from, positions + band.n,
                                              observed.items[i], PositionLess{});
    keep_until(static_cast<std::int32_t>(at - positions));
    from = static_cast<std::int32_t>(at - positions) + 1;
  }
  keep_until(band.n);
  band.n = kept;
  return band;
}

// A band that holds the unobserved value of this rank.
Band find_band(const float* values, std::int32_t n, Observed observed, std::int32_t rank,
               const Sample& sample, std::int32_t* positions) {
  const double quantile = (rank + 0.5) / (n - observed.n);
  for (double spread = kFirstSpread;; spread *= 4.0) {
    const Bracket bracket = bracket_rank(sample, quantile, spread);
    const Band band = collect_band(values, n, observed, bracket, positions);
    if (band.above <= rank && rank < band.above + band.n) return band;
  }
}

// Moves the band's values and items to the front of the scratch. A band of one score ends the
// search: its items stand in ascending order, so only the wanted one is moved.
Candidates narrow(const float* values, const std::int32_t* items, const Band& band,
                  std::int32_t rank, const SelectionScratch& scratch) {
  const std::int32_t* from = scratch.positions;
  Candidates left{band.n, rank - band.above};
  if (band.bracket.low == band.bracket.high) {
    from += left.rank;
    left = {1, 0};
  }
  for (std::int32_t i = 0; i < left.n; ++i) {
    const std::int32_t position = from[i];
    scratch.values[i] = values[position];
    scratch.items[i] = items ? items[position] : position;
  }
  return left;
}

// The position, among n values, of the one at this rank.
std::int32_t select_by_keys(const float* values, std::int32_t n, std::int32_t rank,
                            SelectionKey* keys) {
  for (std::int32_t i = 0; i < n; ++i) keys[i] = pack_key(values[i], i);
  std::nth_element(keys, keys + rank, keys + n, KeyLess{});
  return unpack_position(keys[rank]);
}

std::int32_t find_threshold(const float* scores, std::int32_t n, Observed observed,
                            std::int32_t rank, const Sample& row_sample,
                            const SelectionScratch& scratch) {
  Band band = find_band(scores, n, observed, rank, row_sample, scratch.positions);
  Candidates left = narrow(scores, nullptr, band, rank, scratch);
  while (left.n >= kFinishBelow) {
    const std::int32_t before = left.n;
    Sample sample;
    draw_sample(scratch.values, left.n, {nullptr, 0}, sample);
    band = find_band(scratch.values, left.n, {nullptr, 0}, left.rank, sample, scratch.positions);
    left = narrow(scratch.values, scratch.items, band, left.rank, scratch);
    if (left.n > before / 2) break;  // scores so tied that sampling no longer separates them
  }
  return scratch.items[select_by_keys(scratch.values, left.n, left.rank, scratch.keys)];
}

void find_top(const float* scores, std::int32_t n, Observed observed, std::int32_t top_m,
              const Sample& sample, const SelectionScratch& scratch, std::int32_t* top_items) {
  const std::int32_t wanted = std::min(top_m, n - observed.n);
  std::fill(top_items + wanted, top_items + top_m, -1);
  if (wanted == 0) return;
  const double quantile = (wanted - 0.5) / (n - observed.n);
  Band band{0, 0, {}};
  for (double spread = kFirstSpread; band.n < wanted; spread *= 4.0) {
    const Bracket bracket{bracket_rank(sample, quantile, spread).low, kInfinity};
    band = collect_band(scores, n, observed, bracket, scratch.positions);
  }
  SelectionKey* keys = scratch.keys;
  for (std::int32_t i = 0; i < band.n; ++i) {
    keys[i] = pack_key(scores[scratch.positions[i]], scratch.positions[i]);
  }
  std::nth_element(keys, keys + wanted - 1, keys + band.n, KeyLess{});
  std::sort(keys, keys + wanted, KeyLess{});
  for (std::int32_t i = 0; i < wanted; ++i) top_items[i] = unpack_position(keys[i]);
}

}  // namespace

void select_unobserved(const SelectionArgs& args, std::int64_t begin, std::int64_t end,
                       const SelectionScratch& scratch) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* scores = args.scores + row * args.n_items;
    args.nan_column[row] = find_nan(scores, args.n_items);
    if (args.nan_column[row] >= 0) continue;
    const Observed observed{args.observed + args.indptr[row],
                            static_cast<std::int32_t>(args.indptr[row + 1] - args.indptr[row])};
    Sample sample;
    draw_sample(scores, args.n_items, observed, sample);
    find_top(scores, args.n_items, observed, args.top_m, sample, scratch,
             args.top_items + row * args.top_m);
    const auto rank = static_cast<std::int32_t>(args.first_rank[row]);
    const std::int32_t item =
        find_threshold(scores, args.n_items, observed, rank, sample, scratch);
    args.threshold_item[row] = item;
    args.threshold_score[row] = scores[item];
  }
}

}  // namespace pdrec::PDREC_ISA
