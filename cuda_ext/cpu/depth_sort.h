// Orders the splats of a view front to back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "threads.h"

namespace s4d {

struct DepthKey {
  uint32_t key, index;
};

// A positive float as an integer of the same order.
inline uint32_t depth_bits(float depth) {
  uint32_t key;
  std::memcpy(&key, &depth, sizeof key);
  return key;
}

// Stable radix sort by key; `keys` and `other` hold `count` each; the sorted indices go to `order`. The keys are cut into
// segments, each with its own histogram, so that segments can be scattered at the same time. Depths of a scene differ in
// few of their 32 bits: only those are sorted, 13 at most a pass.
inline void depth_sort(DepthKey* keys, DepthKey* other, int64_t count, uint32_t* order, int num_threads) {
  constexpr int MAX_DIGIT = 13;
  constexpr int64_t SEGMENT = 16384;
  int64_t num_segments = (count + SEGMENT - 1) / SEGMENT;
  uint32_t low = ~0u, high = 0;
  for (int64_t i = 0; i < count; ++i) {
    low = std::min(low, keys[i].key);
    high = std::max(high, keys[i].key);
  }
  int bits = high > low ? 32 - __builtin_clz(high - low) : 0;
  int passes = (bits + MAX_DIGIT - 1) / MAX_DIGIT, digit = passes ? (bits + passes - 1) / passes : 0;
  int64_t num_bins = int64_t{1} << digit;
  std::vector<uint32_t> places(num_segments * num_bins);
  auto in_segment = [&](int64_t s, const auto& f) {
    for (int64_t i = s * SEGMENT; i < std::min((s + 1) * SEGMENT, count); ++i) f(keys[i]);
  };
  for (int shift = 0; shift < passes * digit; shift += digit) {
    auto bin_of = [&](const DepthKey& k) { return (k.key - low) >> shift & (num_bins - 1); };
    parallel_for(num_segments, num_threads, [&](int64_t s) {
      uint32_t* histogram = places.data() + s * num_bins;
      std::fill(histogram, histogram + num_bins, 0u);
      in_segment(s, [&](const DepthKey& k) { ++histogram[bin_of(k)]; });
    });
    uint32_t start = 0;
    for (int64_t b = 0; b < num_bins; ++b)
      for (int64_t s = 0; s < num_segments; ++s) start += std::exchange(places[s * num_bins + b], start);
    parallel_for(num_segments, num_threads, [&](int64_t s) {
      uint32_t* place = places.data() + s * num_bins;
      in_segment(s, [&](const DepthKey& k) { other[place[bin_of(k)]++] = k; });
    });
    std::swap(keys, other);
  }
  for (int64_t i = 0; i < count; ++i) order[i] = keys[i].index;
}

}  // namespace s4d
