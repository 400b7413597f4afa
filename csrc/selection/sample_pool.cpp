// Draws by rejection: candidates are uniform over all items, and those outside the pool are passed
// over. A pool of less than 1/64 of the items is listed instead.
#include "selection/sample_pool.hpp"

#include <algorithm>

#include "counter_rng.hpp"
#include "random_keys.hpp"

namespace pdrec::PDREC_ISA {
namespace {

constexpr std::int64_t kListBelow = 64;  // the pool is listed if this many of it would not fill N

struct Pool {
  const float* scores;
  std::int32_t n_items;
  float threshold_score;
  std::int32_t threshold_item;
  std::uint64_t* excluded;

  bool holds(std::int32_t item) const {
    const float score = scores[item];
    const bool ranked = score < threshold_score ||
                        (score == threshold_score && item >= threshold_item);
    return ranked && !(excluded[item / 64] >> (item % 64) & 1);
  }
  void exclude(std::int32_t item) { excluded[item / 64] |= std::uint64_t{1} << (item % 64); }
  void include(std::int32_t item) { excluded[item / 64] &= ~(std::uint64_t{1} << (item % 64)); }
};

// Items at or after the threshold, the observed among them; stops once there are `enough`.
std::int64_t count_ranked(const Pool& pool, std::int64_t enough) {
  constexpr std::int32_t kBlock = 1024;
  std::int64_t count = 0;
  for (std::int64_t base = 0; base < pool.n_items && count < enough; base += kBlock) {
    const auto first = static_cast<std::int32_t>(base);
    const std::int32_t stop = first + std::min(kBlock, pool.n_items - first);
    std::int32_t in_block = 0;
    for (std::int32_t item = first; item < stop; ++item) {
      const float score = pool.scores[item];
      in_block += (score < pool.threshold_score) |
                  ((score == pool.threshold_score) & (item >= pool.threshold_item));
    }
    count += in_block;
  }
  return count;
}

// The size of the pool, or some number >= enough if it is at least that.
std::int64_t count_pool(const Pool& pool, const std::int32_t* observed, std::int64_t n_observed,
                        std::int64_t enough) {
  std::int64_t count = count_ranked(pool, enough + n_observed);
  if (count >= enough + n_observed) return enough;
  for (std::int64_t i = 0; i < n_observed; ++i) {
    const float score = pool.scores[observed[i]];
    count -= score < pool.threshold_score ||
             (score == pool.threshold_score && observed[i] >= pool.threshold_item);
  }
  return count;
}

// Consumes random words until the row has its draws. to_item turns a word into a candidate.
template <class ToItem>
void draw(Pool& pool, const PhiloxStream& id, std::int64_t n_draws, bool replace,
          std::int32_t* draws, ToItem to_item) {
  std::uint32_t words[4][kLanes];
  std::int64_t drawn = 0;
  for (std::uint32_t block = 0; drawn < n_draws; block += kLanes) {
    philox_blocks(id, block, words);
    for (int j = 0; j < kWordsPerCall && drawn < n_draws; ++j) {
      const std::int32_t item = to_item(words[j % 4][j / 4]);
      if (!pool.holds(item)) continue;
      draws[drawn++] = item;
      if (!replace) pool.exclude(item);
    }
  }
}

// listed: room for one 64th of the items.
std::int32_t list_pool(const Pool& pool, std::int32_t* listed) {
  std::int32_t n = 0;
  for (std::int32_t item = 0; item < pool.n_items; ++item) {
    if (pool.holds(item)) listed[n++] = item;
  }
  return n;
}

std::int32_t bounded(std::uint32_t word, std::int32_t n) {
  return static_cast<std::int32_t>(std::uint64_t{word} * static_cast<std::uint32_t>(n) >> 32);
}

}  // namespace

void sample_pool(const PoolSamplingArgs& args, std::int64_t begin, std::int64_t end,
                 const PoolSamplingScratch& scratch) {
  const std::int64_t list_limit = (args.n_items + kListBelow - 1) / kListBelow;
  const std::int64_t least = args.replace ? std::min<std::int64_t>(args.n_draws, 1) : args.n_draws;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int32_t* observed = args.observed + args.indptr[row];
    const std::int64_t n_observed = args.indptr[row + 1] - args.indptr[row];
    Pool pool{args.scores + row * args.n_items, args.n_items, args.threshold_score[row],
              args.threshold_item[row], scratch.excluded};
    const std::int64_t size =
        count_pool(pool, observed, n_observed, std::max(list_limit, least));
    args.pool_size[row] = size;
    if (size < least) continue;
    for (std::int64_t i = 0; i < n_observed; ++i) pool.exclude(observed[i]);
    const PhiloxStream id{args.seed, static_cast<std::uint32_t>(args.users[row]), args.epoch,
                          random_keys::NEGATIVES};
    std::int32_t* draws = args.draws + row * args.n_draws;
    if (size < list_limit) {
      const std::int32_t n = list_pool(pool, scratch.listed);
      draw(pool, id, args.n_draws, args.replace, draws,
           [&](std::uint32_t word) { return scratch.listed[bounded(word, n)]; });
    } else {
      draw(pool, id, args.n_draws, args.replace, draws,
           [&](std::uint32_t word) { return bounded(word, args.n_items); });
    }
    for (std::int64_t i = 0; i < n_observed; ++i) pool.include(observed[i]);
    if (!args.replace) {
      for (std::int64_t i = 0; i < args.n_draws; ++i) pool.include(draws[i]);
    }
  }
}

}  // namespace pdrec::PDREC_ISA
