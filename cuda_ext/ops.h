// The whole native interface: raw pointers and sizes, one function per op and direction. No torch, no Python.
// All arrays are dense float32, row major; `ids` is int64. Pointers that may be null say so.
#pragma once

#include <cstdint>

namespace s4d {

enum Status : int { OK = 0, OUT_OF_MEMORY = 1, BAD_INSTRUCTION_SET = 2 };

// b sets of n Gaussians, each seen by v cameras; k SH bases; e extra channels.
struct RasterShape {
  int64_t num_sets, num_views, num_gaussians, num_bases, num_extras, width, height;
};

struct RasterOptions {
  float eps2d, near, far;
  int num_threads;      // 1 = no parallel region at all
  int instruction_set;  // -1 = best of this machine, 0 = baseline, 1 = AVX2, 2 = AVX-512
};

struct RasterInputs {
  const float* means;       // [b n 3]
  const float* quats;       // [b n 4]
  const float* scales;      // [b n 3]
  const float* opacities;   // [b n]
  const float* sh;          // [b n k 3]
  const float* extras;      // [b n e], null when e = 0
  const int64_t* ids;       // [b n], negative = empty slot
  const float* viewmats;    // [b v 4 4]
  const float* Ks;          // [b v 3 3]
  const float* background;  // [b v 3] or null
};

struct RasterImages {
  float* rgb;     // [b v h w 3], background included
  float* depth;   // [b v h w] expected depth, 0 where alpha <= 1e-3
  float* alpha;   // [b v h w]
  float* extras;  // [b v h w e]
};

struct RasterGrads {  // every one may be null: not wanted
  float* means;
  float* quats;
  float* scales;
  float* opacities;
  float* sh;
  float* extras;
  float* viewmats;
};

int rasterize(const RasterShape&, const RasterOptions&, const RasterInputs&, const RasterImages& out);

// `images` is what `rasterize` returned; members of `v_images` may be null (zero gradient).
int rasterize_backward(const RasterShape&, const RasterOptions&, const RasterInputs&, const RasterImages& images,
                       const RasterImages& v_images, const RasterGrads& out);

// The best instruction set of this machine, as RasterOptions names them.
int best_instruction_set();

}  // namespace s4d
