// All that the kernels ask of CUDA beyond the language: launches, memory, sorting, and the two fast functions. Without
// nvcc the host shim (tests/native/shim) takes its place, so the same .cu files also run where there is no GPU.
#pragma once

#ifndef S4D_NS
#define S4D_NS s4d_cuda
#endif

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define S4D_DEVICE __device__ __forceinline__
#define S4D_UNROLL _Pragma("unroll")
#define S4D_NO_UNROLL _Pragma("unroll 1")
// One struct of memory shared by the block; contents undefined.
#define S4D_SHARED(Type, name) __shared__ Type name
#else
#include "shim.h"
#define S4D_DEVICE inline
#define S4D_UNROLL
#define S4D_NO_UNROLL
#define S4D_SHARED(Type, name) Type& name = shim::shared<Type>()
#endif

namespace s4d_cuda {

constexpr unsigned FULL_WARP = 0xffffffffu;
constexpr int WARP = 32;

#if defined(__CUDACC__)

using Stream = cudaStream_t;

template <class... P, class... A>
void launch(void (*kernel)(P...), int64_t num_blocks, int num_threads, Stream stream, A... args) {
  if (num_blocks > 0) kernel<<<static_cast<unsigned>(num_blocks), num_threads, 0, stream>>>(args...);
}

inline void fill_zero(void* data, size_t bytes, Stream stream) {
  if (bytes) cudaMemsetAsync(data, 0, bytes, stream);
}

// Waits for the stream: `host` is valid afterwards. False when the device failed before.
inline bool read_back(void* host, const void* device, size_t bytes, Stream stream) {
  return cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream) == cudaSuccess &&
         cudaStreamSynchronize(stream) == cudaSuccess;
}

inline bool launched() { return cudaGetLastError() == cudaSuccess; }

// Makes a device the current one, and the one before again at the end.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    ok_ = cudaGetDevice(&before_) == cudaSuccess && cudaSetDevice(device) == cudaSuccess;
    if (!ok_) cudaGetLastError();
  }
  ~OnDevice() {
    if (ok_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  explicit operator bool() const { return ok_; }

 private:
  int before_ = 0;
  bool ok_;
};

// Whether this build holds code that the current device can run.
template <class... P>
bool runs_here(void (*kernel)(P...)) {
  cudaFuncAttributes attributes;
  bool found = cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
  cudaGetLastError();  // an error that is answered here is not left for the next call
  return found;
}

#else

using Stream = void*;

template <class... P, class... A>
void launch(void (*kernel)(P...), int64_t num_blocks, int num_threads, Stream, A... args) {
  shim::run(num_blocks, num_threads, [=] { kernel(args...); });
}

inline void fill_zero(void* data, size_t bytes, Stream) { shim::fill(data, 0, bytes); }

inline bool read_back(void* host, const void* device, size_t bytes, Stream) {
  shim::copy(host, device, bytes);
  return true;
}

inline bool launched() { return true; }

struct OnDevice {
  explicit OnDevice(int) {}
  explicit operator bool() const { return true; }
};

template <class... P>
bool runs_here(void (*)(P...)) {
  return true;
}

#endif

// Stable radix sorts by bits [0, end_bit) or [begin_bit, end_bit), and a running sum in place, all with CUB (sort.cu).
// With temp = null they only say how many bytes they need.
size_t sort_rows(void* temp, size_t temp_bytes, const uint64_t* keys, uint64_t* sorted_keys, const uint32_t* rows,
                 uint32_t* sorted_rows, int64_t count, int end_bit, Stream stream);
size_t sort_entries(void* temp, size_t temp_bytes, const uint32_t* keys, uint32_t* sorted_keys, const uint2* values,
                    uint2* sorted_values, int64_t count, int begin_bit, int end_bit, Stream stream);
size_t running_sum(void* temp, size_t temp_bytes, uint64_t* values, int64_t count, Stream stream);

// Fast functions of the device; S4D_PLAIN_MATH takes the plain ones there too.
#if defined(__CUDACC__) && !defined(S4D_PLAIN_MATH)
constexpr bool FAST_MATH = true;
#else
constexpr bool FAST_MATH = false;
#endif

template <bool FAST = FAST_MATH>
S4D_DEVICE float power_of_two(float x) {
  if constexpr (FAST) {
#if defined(__CUDACC__)
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
  }
  return ::exp2f(x);
}

// 1 / x for normal x.
template <bool FAST = FAST_MATH>
S4D_DEVICE float reciprocal(float x) {
  if constexpr (FAST) {
#if defined(__CUDACC__)
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
  }
  return 1.0f / x;
}

S4D_DEVICE int lane_index() { return static_cast<int>(threadIdx.x) % WARP; }
S4D_DEVICE int warp_index() { return static_cast<int>(threadIdx.x) / WARP; }

// The sum over the lanes of a warp, in a fixed order, for all of them.
S4D_DEVICE float warp_sum(float x) {
  for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(FULL_WARP, x, step);
  return x;
}

}  // namespace s4d_cuda
