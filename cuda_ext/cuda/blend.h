// What both raster directions share: a warp with its tile, batches of the tile's list, and one splat at one pixel.
#pragma once

#include "scene.h"

namespace s4d_cuda {

// What one splat does at one pixel. Forward and backward share it, so that alpha is the same to the bit.
struct Blend {
  float raw, alpha, weight, after;
  bool kept;
};

// `before` = 0 for a pixel that is done.
S4D_DEVICE Blend blend(const Stamp& s, float dx, float dy, float before) {
  Blend b;
  b.raw = power_of_two(log2_alpha(dx, dy, s.a, s.b, s.c, s.log2_opacity));
  b.alpha = b.raw >= ALPHA_MIN ? min(b.raw, ALPHA_MAX) : 0.0f;
  b.after = fma(-b.alpha, before, before);
  b.kept = b.after > TRANSMITTANCE_MIN;
  b.weight = b.kept ? b.alpha * before : 0.0f;
  b.after = b.kept ? b.after : 0.0f;
  return b;
}

// Where a warp works; the second pixel of a lane is HALF rows below the first.
struct TilePlace {
  int64_t view;
  int x, y;  // pixel of this lane's first
  uint32_t begin, end;

  S4D_DEVICE TilePlace(const Scene& s, const uint2* ranges, int64_t tile) {
    int per_view = s.tiles_x * s.tiles_y;
    view = tile / per_view;
    int index = static_cast<int>(tile - view * per_view);
    x = index % s.tiles_x * TILE + lane_index() % TILE;
    y = index / s.tiles_x * TILE + lane_index() / TILE;
    uint2 range = ranges[tile];
    begin = range.x;
    end = range.y;
  }
  S4D_DEVICE bool inside(const Scene& s, int half) const { return x < s.width && y + half * HALF < s.height; }
  S4D_DEVICE int64_t pixel(const Scene& s, int half) const {
    return (view * s.height + (y + half * HALF)) * s.width + x;
  }
};

// The tile lists, as the raster stages read them.
struct TileLists {
  const uint2* ranges;
  const uint32_t* keys;
  const uint2* sorted;  // row, slot
  const Stamp* stamps;
};

// One list entry, held by one lane until it is its turn: loads are in flight while the batch before is blended.
template <int E>
struct Fetched {
  Stamp stamp;  // flags = halves
  uint32_t slot = 0;
  int64_t gaussian = 0;  // over all sets; known only where there are extras
  float extras[E > 0 ? E : 1];

  S4D_DEVICE void load(const Scene& s, const TileLists& lists, uint32_t index, uint32_t end, int first_extra) {
    if (index >= end) return;
    uint2 entry = lists.sorted[index];
    stamp = lists.stamps[entry.x];
    stamp.flags = lists.keys[index] & ((1u << HALF_BITS) - 1u);
    slot = entry.y;
    if constexpr (E > 0) {
      uint32_t view = entry.x / static_cast<uint32_t>(s.num_gaussians);
      gaussian = static_cast<int64_t>(view / static_cast<uint32_t>(s.num_views)) * s.num_gaussians +
                 (entry.x - view * static_cast<uint32_t>(s.num_gaussians));
      const float* values = s.in.extras + gaussian * s.num_extras + first_extra;
    S4D_UNROLL
      for (int c = 0; c < E; ++c) extras[c] = first_extra + c < s.num_extras ? values[c] : 0.0f;
    }
  }
};

// WARP entries in shared memory, read by all lanes of one warp.
template <int E>
struct Batch {
  Stamp stamps[WARP];
  float extras[WARP][E > 0 ? E : 1];

  S4D_DEVICE void store(const Fetched<E>& f) {
    stamps[lane_index()] = f.stamp;
    if constexpr (E > 0) {
      S4D_UNROLL
      for (int c = 0; c < E; ++c) extras[lane_index()][c] = f.extras[c];
    }
  }
};

// Which halves of the tile still have a pixel that is not done.
S4D_DEVICE unsigned live_halves(float T0, float T1) {
  return (__any_sync(FULL_WARP, T0 > 0.0f) ? 1u : 0u) | (__any_sync(FULL_WARP, T1 > 0.0f) ? 2u : 0u);
}

// Runs f.run<E>() for the smallest register budget that holds `num` channels.
template <class F>
void for_extras(int num, const F& f) {
  if (num <= 0) return f.template run<0>();
  if (num <= 4) return f.template run<4>();
  return f.template run<EXTRAS_AT_ONCE>();
}

}  // namespace s4d_cuda
