// What the stages on the device hand to each other. A row is one Gaussian of one view: row = view * num_gaussians + n,
// views counted over all sets. A tile is 8x8 pixels, the work of one warp: lane l has pixel (l % 8, l / 8) and the one
// four rows below, so a tile is two halves of 8x4. An entry is a row in a tile; its place in the order of emission
// (depth order, so all entries of a row are neighbours) is its slot for the gradient sums.
#pragma once

#include "device.h"  // first: it names the namespace of math/

#include "../math/splat.h"
#include "../ops.h"

namespace s4d_cuda {

constexpr int TILE = 8;
constexpr int HALF = 4;           // rows of pixels in half a tile
constexpr int HALF_BITS = 2;      // low bits of an entry's key: which halves the ellipse may touch
constexpr int DEPTH_BITS = 31;    // of a positive float
constexpr int FIXED_SUMS = 10;    // 6 moments, 3 colours, 1 depth: floats a slot besides the rest
constexpr int ABS_SUMS = 2;       // |v_u|, |v_v|, only when wanted; after the fixed ones
constexpr int EXTRAS_AT_ONCE = 8; // extra channels that one pass keeps in registers
constexpr float LOG2_ALPHA_MIN = -7.99435343685886f;

// A visible row, packed for the raster stages: three 16-byte loads.
struct alignas(16) Stamp {
  float u, v;
  float a, b, c;  // conic times -log2(e) / 2, b doubled: log2(alpha) = a dx^2 + b dx dy + c dy^2 + log2_opacity
  float log2_opacity;
  float depth;
  uint32_t flags;  // bit c: colour c was negative and passes no gradient
  float red, green, blue;
  float factor;    // of the opacity, anti-aliasing; 1 without
};
static_assert(sizeof(Stamp) == 48, "three 16-byte loads");

struct Scene {
  s4d::RasterInputs in;
  int num_sets, num_views, num_gaussians, num_bases, num_extras, width, height;
  int all_views;  // over all sets
  int tiles_x, tiles_y;
  int64_t num_rows, num_tiles;  // over all views
  float eps2d, near, far;
  bool antialiased;
};

// Arrays of num_rows.
struct Rows {
  Stamp* stamps;        // valid where counts > 0
  uint32_t* counts;     // tiles
  uint32_t* first;      // slot of the first tile, valid where counts > 0
  float2* radii;
  uint64_t *keys, *sorted_keys;  // view, depth; rows that are not drawn last
  uint32_t *rows, *order;        // before and after the depth sort
  uint64_t* ends;       // tiles of order[0 .. i]; takes the place of `keys`
  void* temp;
  size_t temp_bytes;
};

// Arrays of num_entries, and of num_tiles.
struct Entries {
  uint32_t *keys, *sorted_keys;  // tile << HALF_BITS | halves
  uint2 *values, *sorted;        // row, slot
  uint2* ranges;                 // of a tile in `sorted`
  void* temp;
  size_t temp_bytes;
};

int64_t ceil_div(int64_t a, int64_t b);

// Stages. Each only launches.
void project(const Scene&, const Rows&, float* radii, Stream);
void count_in_order(const Scene&, const Rows&, Stream);
void emit(const Scene&, const Rows&, const Entries&, Stream);
void find_ranges(const Scene&, const Entries&, int64_t num_entries, Stream);
void raster(const Scene&, const Rows&, const Entries&, const s4d::RasterImages& out, Stream);
void raster_vjp(const Scene&, const Rows&, const Entries&, const s4d::RasterImages& images,
                const s4d::RasterImages& v_images, float* slots, bool absgrads, Stream);
void project_vjp(const Scene&, const Rows&, const float* slots, float* camera_parts, const s4d::RasterGrads& out,
                 Stream);

// Floats a slot.
inline int slot_stride(int num_extras, bool absgrads) { return FIXED_SUMS + (absgrads ? ABS_SUMS : 0) + num_extras; }
// Floats of partial sums for the gradient by the cameras.
int64_t camera_parts(const s4d::RasterShape&);

}  // namespace s4d_cuda
