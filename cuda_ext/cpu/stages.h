// What the stages of the rasterizer hand to each other. One call of a stage function is one task; the driver
// (rasterize.cpp) runs tasks in any order on any number of threads, and no task writes where another does.
#pragma once

#include <cstdint>

#include "../ops.h"

namespace s4d {

constexpr int TILE = 16;             // pixels a side
constexpr int BLOCK = 4;             // a tile is 4x4 blocks of 4x4 pixels
constexpr int TILE_PIXELS = TILE * TILE;
constexpr int FIXED_SUMS = 10;       // 6 moments, 3 colours, 1 depth: floats a slot besides the extras
constexpr int ABS_SUMS = 2;          // |dL/du|, |dL/dv|: two more at the end of a slot, where they are wanted

// One visible Gaussian of one view: a cache line.
struct alignas(64) Splat {
  float u, v;
  float a, b, c;        // conic times -log2(e) / 2, b doubled: log2(alpha) = a dx^2 + b dx dy + c dy^2 + log2_opacity
  float log2_opacity;
  float rgb[3];
  float depth;
  int32_t row;          // of its set
  uint32_t clamped;     // bit c: colour c was negative and passes no gradient
  float radius_x, radius_y;  // half extents of {alpha >= 1 / 255}
};

// A Gaussian in a tile. Its gradient sums go to slot `slot` of the view group; slots are in the order of the rows, so
// that what one Gaussian gathered lies together and the next one's behind it.
struct Entry {
  uint32_t splat, slot;
  uint16_t blocks;  // bit 4 row + column: the ellipse may touch that block of the tile
};

// An entry before it is sorted into its tile.
struct TileEntry {
  uint32_t splat, tile;
  uint16_t blocks;
};

struct TileEntryList {
  TileEntry* data = nullptr;
  int64_t size = 0, capacity = 0;
};

// Makes room for `extra` more; false when memory is out. Lives in the driver, which owns the memory.
bool reserve(TileEntryList& list, int64_t extra);

// One camera of one set.
struct View {
  const float *means, *quats, *scales, *opacities, *sh, *extras;
  const int64_t* ids;
  const float *viewmat, *K, *background;
  float* radii;  // [n 2] or null
  int num_gaussians, num_bases, num_extras, width, height, tiles_x, tiles_y;
  float eps2d, near, far;
  bool antialiased;
};

inline int slot_floats(const View& view, bool abs_sums) {
  return FIXED_SUMS + view.num_extras + (abs_sums ? ABS_SUMS : 0);
}

struct TileTask {
  const View* view;
  const Splat* splats;
  const Entry* entries;  // front to back
  int64_t num_entries;
  int tile_x, tile_y;
  RasterImages images;    // of this view
  RasterImages v_images;  // of this view, backward only
  float* slots;           // backward only
  bool abs_sums;          // backward only: slots end in ABS_SUMS
  float* scratch;         // raster_scratch(num_extras) floats, 64-byte aligned, backward and forward
};

struct ChunkGrads {
  RasterGrads rows;  // of the set of this chunk; viewmats and absgrads unused
  float* viewmat;    // 12 sums (rotation, translation) of this chunk and view, or null
  float* absgrads;   // [n 2] of this view, or null
};

constexpr int64_t raster_scratch(int64_t num_extras) { return 2 * num_extras * TILE_PIXELS; }

// The stages, once per instruction set.
struct Stages {
  // Rows [begin, end) of the view's set: visible ones to `out`; returns how many.
  int (*project)(const View&, int begin, int end, Splat* out);
  // Splats named by order[0 .. count): their tiles, appended to `list`, and how many there are of each in `num_slots`.
  bool (*bin)(const View&, const Splat* splats, const uint32_t* order, int64_t count, uint32_t* num_slots,
              TileEntryList& list);
  void (*raster)(const TileTask&);
  void (*raster_vjp)(const TileTask&);
  // `count` splats of one chunk and view: sums their slots, first_slots[i] .. first_slots[i + 1] for the i-th, and adds
  // the gradients to the rows.
  void (*project_vjp)(const View&, const Splat* splats, int count, const uint32_t* first_slots, const float* slots,
                      const ChunkGrads& out);
};

#define S4D_DECLARE_STAGES(ns)                                                                               \
  namespace ns {                                                                                             \
  int project(const s4d::View&, int, int, s4d::Splat*);                                                      \
  bool bin(const s4d::View&, const s4d::Splat*, const uint32_t*, int64_t, uint32_t*, s4d::TileEntryList&);   \
  void raster(const s4d::TileTask&);                                                                         \
  void raster_vjp(const s4d::TileTask&);                                                                     \
  void project_vjp(const s4d::View&, const s4d::Splat*, int, const uint32_t*, const float*,                  \
                   const s4d::ChunkGrads&);                                                                  \
  }

}  // namespace s4d
