// The CUDA side of ops.h, in phases, because Python allocates: prepare -> (entries known) -> bin -> blend, and back.
// All addresses are of device memory, 16-byte aligned. Nothing is kept between calls but what the caller keeps.
#pragma once

#include <cstdint>

#include "../ops.h"

namespace s4d {

enum CudaStatus : int { CUDA_OK = 0, CUDA_FAILED = 3 };

// `kept` serves backward too; `scratch` only until cuda_bin is queued.
struct CudaBytes {
  int64_t kept, scratch;
};

struct CudaTask {
  RasterShape shape;
  RasterOptions options;  // num_threads and instruction_set unused
  RasterInputs in;
  void *rows, *row_scratch;       // cuda_rows_bytes
  void *entries, *entry_scratch;  // cuda_entries_bytes; null in prepare
  int64_t num_entries;            // (Gaussian, tile) pairs, from prepare
  int device;
  void* stream;
};

// True when the device exists, has a driver new enough, and this build holds code for it.
bool cuda_device_usable(int device);

CudaBytes cuda_rows_bytes(const RasterShape&, int device);
CudaBytes cuda_entries_bytes(const RasterShape&, int64_t num_entries, int device);
int64_t cuda_slots_bytes(const RasterShape&, int64_t num_entries, bool absgrads, bool viewmats);

// Projects, sorts by depth, counts tiles; fills radii where not null. Waits for the device once, to read num_entries.
int cuda_prepare(const CudaTask&, float* radii, int64_t* num_entries);

// Fills the tile lists.
int cuda_bin(const CudaTask&);

// Draws; `out.radii` unused.
int cuda_blend(const CudaTask&, const RasterImages& out);

// As rasterize_backward of ops.h; `slots` has cuda_slots_bytes. Every wanted gradient is written in full.
int cuda_backward(const CudaTask&, const RasterImages& images, const RasterImages& v_images, void* slots,
                  const RasterGrads& out);

// For tests: [4 count] of the functions that have a fast path: fast 2^x, plain 2^x, fast 1 / x, plain 1 / x.
int cuda_compare_math(const float* values, int64_t count, float* out, int device, void* stream);

}  // namespace s4d
