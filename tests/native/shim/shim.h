// A GPU on the host, so that the .cu files of scene4d run and are tested where there is none: a launch is a loop over
// blocks, a thread is a fibre, and a fibre runs until it must wait for others. The order in which blocks and fibres run
// is forward, reverse or random: code that lacks a barrier gives other results in another order.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint2 {
  unsigned x, y;
};
struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace shim {

struct Index {
  unsigned x, y, z;
};
extern Index thread_index, block_index;

enum class Schedule : int { FORWARD = 0, REVERSE = 1, RANDOM = 2 };
void set_schedule(Schedule schedule, unsigned seed);

// Runs `body` once for every thread of every block. Throws when threads wait for one that has ended.
void run(int64_t num_blocks, int num_threads, const std::function<void()>& body);

void block_barrier();
// All lanes of a warp give a word; then each sees the words of all. `kind` names the call: lanes must agree on it.
const uint32_t* exchange(unsigned mask, uint32_t word, int kind);

// The block's shared memory, full of NaN when a block begins.
void* shared_bytes(size_t size);
template <class T>
T& shared() {
  return *static_cast<T*>(shared_bytes(sizeof(T)));
}

inline void fill(void* data, int byte, size_t size) { std::memset(data, byte, size); }
inline void copy(void* to, const void* from, size_t size) { std::memcpy(to, from, size); }

enum Kind : int { SYNC = 1, SHUFFLE = 2, SHUFFLE_UP = 3, SHUFFLE_XOR = 4, VOTE = 5 };

inline int lane() { return static_cast<int>(thread_index.x % 32); }

template <class T>
T pick(unsigned mask, T value, int source, Kind kind) {
  static_assert(sizeof(T) == sizeof(uint32_t), "one word");
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  const uint32_t* words = exchange(mask, word, kind);
  std::memcpy(&value, words + source, sizeof value);
  return value;
}

inline unsigned votes(unsigned mask, bool predicate) {
  const uint32_t* words = exchange(mask, predicate, VOTE);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= words[i] << i;
  return bits;
}

}  // namespace shim

#define threadIdx (::shim::thread_index)
#define blockIdx (::shim::block_index)

inline void __syncthreads() { shim::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::exchange(mask, 0, shim::SYNC); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return shim::pick(mask, value, source, shim::SHUFFLE);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int delta) {
  return shim::pick(mask, value, shim::lane() >= delta ? shim::lane() - delta : shim::lane(), shim::SHUFFLE_UP);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return shim::pick(mask, value, shim::lane() ^ bits, shim::SHUFFLE_XOR);
}
inline unsigned __ballot_sync(unsigned mask, bool predicate) { return shim::votes(mask, predicate); }
inline bool __any_sync(unsigned mask, bool predicate) { return shim::votes(mask, predicate) != 0; }

inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
