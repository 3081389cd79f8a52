// The only file that needs CUB: radix sorts and a running sum.
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "device.h"

namespace s4d_cuda {

size_t sort_rows(void* temp, size_t temp_bytes, const uint64_t* keys, uint64_t* sorted_keys, const uint32_t* rows,
                 uint32_t* sorted_rows, int64_t count, int end_bit, Stream stream) {
  cub::DeviceRadixSort::SortPairs(temp, temp_bytes, keys, sorted_keys, rows, sorted_rows, count, 0, end_bit, stream);
  return temp_bytes;
}

size_t sort_entries(void* temp, size_t temp_bytes, const uint32_t* keys, uint32_t* sorted_keys, const uint2* values,
                    uint2* sorted_values, int64_t count, int begin_bit, int end_bit, Stream stream) {
  cub::DeviceRadixSort::SortPairs(temp, temp_bytes, keys, sorted_keys, values, sorted_values, count, begin_bit, end_bit,
                                  stream);
  return temp_bytes;
}

size_t running_sum(void* temp, size_t temp_bytes, uint64_t* values, int64_t count, Stream stream) {
  cub::DeviceScan::InclusiveSum(temp, temp_bytes, values, values, count, stream);
  return temp_bytes;
}

}  // namespace s4d_cuda
