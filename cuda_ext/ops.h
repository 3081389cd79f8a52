// The whole native interface: raw pointers and sizes, one function per op and direction. No torch, no Python.
// All arrays are dense float32, row major; `ids` is int64. Pointers that may be null say so.
#pragma once

#include <cstdint>

namespace s4d {

enum Status : int { OK = 0, OUT_OF_MEMORY = 1, BAD_INSTRUCTION_SET = 2, TOO_MANY_PAIRS = 3 };

// Pairs of a Gaussian and a 16x16 tile that are drawn at once; more is refused before memory runs out (about 64 bytes a
// pair with gradients, and systems promise memory that they do not have).
constexpr int64_t MAX_PAIRS = int64_t{1} << 27;

// b sets of n Gaussians, each seen by v cameras; k SH bases; e extra channels.
struct RasterShape {
  int64_t num_sets, num_views, num_gaussians, num_bases, num_extras, width, height;
};

struct RasterOptions {
  float eps2d, near, far;
  int antialiased;      // 1: opacity times sqrt(area without eps2d / area with it), as in Mip-Splatting
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
  float* median;  // [b v h w] depth of the splat that takes transmittance to 1/2, 0 where none does; null: not wanted
  float* radii;   // [b v n 2] half extents of {alpha >= 1 / 255} in pixels, 0 = not drawn; null: not wanted
};

struct RasterGrads {  // every one may be null: not wanted
  float* means;
  float* quats;
  float* scales;
  float* opacities;
  float* sh;
  float* extras;
  float* viewmats;
  float* absgrads;  // [b v n 2] sum over pixels of |dL/d(image position in pixels)|
};

// A `token` that is not 0 names this call: its splats and tile lists are kept, within bounds, for the backward call of the
// same token, which otherwise makes them again (to the same bits).
int rasterize(const RasterShape&, const RasterOptions&, const RasterInputs&, const RasterImages& out, int64_t token);

// `images` is what `rasterize` returned; members of `v_images` may be null (zero gradient); its median and
// radii carry none.
int rasterize_backward(const RasterShape&, const RasterOptions&, const RasterInputs&, const RasterImages& images,
                       const RasterImages& v_images, const RasterGrads& out, int64_t token);

// Gives back what is kept under `token`, if anything is.
void release(int64_t token);

// Seconds that the stages of the last call took, for benchmarks: project, sort, bin, scatter, raster, project_vjp.
constexpr int NUM_STAGES = 6;
void last_stage_seconds(double (&out)[NUM_STAGES]);

// The best instruction set of this machine, as RasterOptions names them.
int best_instruction_set();

}  // namespace s4d
