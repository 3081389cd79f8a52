// What sort.cu does with CUB, on the host.
#include <algorithm>
#include <numeric>
#include <vector>

#include "device.h"

namespace s4d_cuda {
namespace {

template <class Key, class Value>
size_t sort_pairs(void* temp, const Key* keys, Key* sorted_keys, const Value* values, Value* sorted_values,
                  int64_t count, int begin_bit, int end_bit) {
  if (!temp) return 1;
  Key mask = end_bit - begin_bit >= static_cast<int>(8 * sizeof(Key)) ? ~Key(0) : (Key(1) << (end_bit - begin_bit)) - 1;
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return (keys[a] >> begin_bit & mask) < (keys[b] >> begin_bit & mask); });
  for (int64_t i = 0; i < count; ++i) sorted_keys[i] = keys[order[i]], sorted_values[i] = values[order[i]];
  return 1;
}

}  // namespace

size_t sort_rows(void* temp, size_t, const uint64_t* keys, uint64_t* sorted_keys, const uint32_t* rows,
                 uint32_t* sorted_rows, int64_t count, int end_bit, Stream) {
  return sort_pairs(temp, keys, sorted_keys, rows, sorted_rows, count, 0, end_bit);
}

size_t sort_entries(void* temp, size_t, const uint32_t* keys, uint32_t* sorted_keys, const uint2* values,
                    uint2* sorted_values, int64_t count, int begin_bit, int end_bit, Stream) {
  return sort_pairs(temp, keys, sorted_keys, values, sorted_values, count, begin_bit, end_bit);
}

size_t running_sum(void* temp, size_t, uint64_t* values, int64_t count, Stream) {
  if (temp) std::partial_sum(values, values + count, values);
  return 1;
}

}  // namespace s4d_cuda
