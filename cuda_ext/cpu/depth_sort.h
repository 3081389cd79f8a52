// Orders the splats of a view front to back.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

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

// Stable radix sort by key, three passes of 11 bits; `keys` and `other` hold `count` each. Returns the sorted one.
inline DepthKey* depth_sort(DepthKey* keys, DepthKey* other, int64_t count) {
  constexpr int PASSES = 3, BITS = 11, BINS = 1 << BITS;
  uint32_t histogram[PASSES][BINS] = {};
  for (int64_t i = 0; i < count; ++i)
    for (int p = 0; p < PASSES; ++p) ++histogram[p][keys[i].key >> (BITS * p) & (BINS - 1)];
  for (int p = 0; p < PASSES; ++p) {
    uint32_t start = 0;
    bool one_bin = false;
    for (int b = 0; b < BINS; ++b) {
      uint32_t size = histogram[p][b];
      one_bin |= size == count;
      histogram[p][b] = start;
      start += size;
    }
    if (one_bin) continue;
    for (int64_t i = 0; i < count; ++i) other[histogram[p][keys[i].key >> (BITS * p) & (BINS - 1)]++] = keys[i];
    std::swap(keys, other);
  }
  return keys;
}

}  // namespace s4d
