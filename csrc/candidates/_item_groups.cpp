#include "candidates/_item_groups.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

namespace pdrec {
namespace {

constexpr int kDigitBits = 11;
constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;

struct Place {
  std::int32_t item;
  std::int32_t at;
};

// One stable pass of a radix sort by item.
void sort_by_digit(int shift, const std::vector<Place>& from, std::vector<Place>& into) {
  std::array<std::size_t, kDigits> next{};
  const auto digit = [&](const Place& place) {
    return static_cast<std::size_t>(place.item >> shift) & (kDigits - 1);
  };
  for (const Place& place : from) ++next[digit(place)];
  std::size_t start = 0;
  for (std::size_t& each : next) {
    const std::size_t count = each;
    each = start;
    start += count;
  }
  for (const Place& place : from) into[next[digit(place)]++] = place;
}

}  // namespace

ItemGroups group_by_item(const std::int32_t* items, std::int64_t n) {
  std::vector<Place> places(static_cast<std::size_t>(n));
  std::size_t n_places = 0;
  std::int32_t largest = 0;
  for (std::int32_t at = 0; at < n; ++at) {
    places[n_places] = {items[at], at};
    n_places += items[at] >= 0 ? 1 : 0;
    largest = std::max(largest, items[at]);
  }
  places.resize(n_places);
  std::vector<Place> sorted(n_places);
  for (int shift = 0; shift < 31 && largest >> shift > 0; shift += kDigitBits) {
    sort_by_digit(shift, places, sorted);
    places.swap(sorted);
  }
  ItemGroups groups;
  groups.order.reserve(n_places);
  for (const Place& place : places) {
    if (groups.items.empty() || groups.items.back() != place.item) {
      groups.items.push_back(place.item);
      groups.starts.push_back(static_cast<std::int64_t>(groups.order.size()));
    }
    groups.order.push_back(place.at);
  }
  groups.starts.push_back(static_cast<std::int64_t>(n_places));
  return groups;
}

}  // namespace pdrec
