// Blends the entries of one tile, and takes the gradients back, both front to back. The state of the 256 pixels stays in
// L1 in block order (pixel = 16 block + 4 row + column inside the block); a lane is a pixel.
//
// Backward keeps one scalar a pixel instead of storing anything: S = what the loss still gains from the Gaussians behind
// (at first all of it), so dL/dalpha = T (c . g) - S / (1 - alpha). Every sum has one writer and one order.
#include "../math/splat.h"
#include "simd.h"
#include "stages.h"

namespace S4D_NS {
namespace {

using s4d::Entry;
using s4d::Splat;
using s4d::TILE;
using s4d::TILE_PIXELS;
using s4d::TileTask;
using s4d::View;

#define S4D_INLINE __attribute__((always_inline))

constexpr int BLOCK_PIXELS = 16;
constexpr int PREFETCH = 6;

// What a tile knows of its pixels, one plane of 256 floats each, in one block of memory: a vector of pixels then needs a
// single pointer, and the planes are constant distances from it.
enum Plane : int { X, Y, T, LAST, RED, GREEN, BLUE, DEPTH, MEDIAN, S = MEDIAN, NUM_PLANES };

// Pixel centres from the tile's corner.
struct PixelTable {
  alignas(64) float x[TILE_PIXELS], y[TILE_PIXELS];
  constexpr PixelTable() : x(), y() {
    for (int i = 0; i < TILE_PIXELS; ++i) {
      int block = i / BLOCK_PIXELS, k = i % BLOCK_PIXELS;
      x[i] = static_cast<float>(block % 4 * 4 + k % 4) + 0.5f;
      y[i] = static_cast<float>(block / 4 * 4 + k / 4) + 0.5f;
    }
  }
};
constexpr PixelTable PIXELS;

template <int N>
using Pixels = float* const (&)[N];  // N x WIDTH pixels, on plane 0

template <int N>
S4D_HD Bundle<N> load(Pixels<N> at, int plane) {
  Bundle<N> r;
  for (int i = 0; i < N; ++i) r.at[i] = Lanes::load(at[i] + plane * TILE_PIXELS);
  return r;
}

template <int N>
S4D_HD void store(Pixels<N> at, int plane, const Bundle<N>& value) {
  for (int i = 0; i < N; ++i) value.at[i].store(at[i] + plane * TILE_PIXELS);
}

template <int N>
S4D_HD void accumulate(Pixels<N> at, int plane, const Bundle<N>& weight, Lanes value) {
  store(at, plane, fma(weight, Bundle<N>(value), load<N>(at, plane)));
}

// A splat broadcast to lanes.
struct Stamp {
  Lanes u, v, a, b, c, log2_opacity, red, green, blue, depth;
  S4D_HD explicit Stamp(const Splat& s)
      : u(s.u), v(s.v), a(s.a), b(s.b), c(s.c), log2_opacity(s.log2_opacity), red(s.rgb[0]), green(s.rgb[1]),
        blue(s.rgb[2]), depth(s.depth) {}
};

// What one splat does at N x WIDTH pixels. Forward and backward share it, so that alpha is the same to the bit.
template <int N>
struct Blend {
  using L = Bundle<N>;
  L dx, dy, raw, alpha, weight, after;
  BundleMask<N> kept;
  S4D_HD Blend(const Stamp& s, Pixels<N> at, const L& before) {
    dx = load<N>(at, X) - L(s.u);
    dy = load<N>(at, Y) - L(s.v);
    raw = exp2(log2_alpha(dx, dy, L(s.a), L(s.b), L(s.c), L(s.log2_opacity)));
    alpha = select(raw >= L(ALPHA_MIN), min(raw, L(ALPHA_MAX)), L(0.0f));
    after = fnma(alpha, before, before);
    kept = after > L(TRANSMITTANCE_MIN);  // false for pixels that are done: their T is 0
    weight = select(kept, alpha * before, L(0.0f));
    after = select(kept, after, L(0.0f));
  }
};

// Calls f with the vectors of `blocks`: GROUP = 2, two at a time, so that one chain of operations fills the gaps of the
// other; GROUP = 1, one by one, where two would not fit the registers.
template <int GROUP, class F>
S4D_HD void for_vectors(unsigned blocks, float* planes, const F& f) {
  for (; blocks; blocks &= blocks - 1) {
    float* begin = planes + __builtin_ctz(blocks) * BLOCK_PIXELS;
    unsigned others = blocks & (blocks - 1);
    if constexpr (GROUP * WIDTH <= BLOCK_PIXELS) {
      for (int i = 0; i < BLOCK_PIXELS; i += GROUP * WIDTH) {
        float* at[GROUP];
        for (int j = 0; j < GROUP; ++j) at[j] = begin + i + j * WIDTH;
        f(at);
      }
    } else if (others) {
      float* const at[2] = {begin, planes + __builtin_ctz(others) * BLOCK_PIXELS};
      f(at);
      blocks = others;
    } else {
      float* const at[1] = {begin};
      f(at);
    }
  }
}

S4D_HD int block_of(int x, int y) { return (y / 4 * 4 + x / 4) * BLOCK_PIXELS + y % 4 * 4 + x % 4; }

struct Tile {
  alignas(64) float planes[NUM_PLANES][TILE_PIXELS];  // T = 0: done; LAST: T of a pixel that is done
  int width, height;                                  // pixels of the tile inside the image
  unsigned live;                                      // blocks with a pixel that is not done

  explicit Tile(const TileTask& task) : live(0) {
    const View& view = *task.view;
    width = view.width - task.tile_x * TILE < TILE ? view.width - task.tile_x * TILE : TILE;
    height = view.height - task.tile_y * TILE < TILE ? view.height - task.tile_y * TILE : TILE;
    Lanes left(task.tile_x * TILE), top(task.tile_y * TILE), zero(0.0f), one(1.0f);
    for (int i = 0; i < TILE_PIXELS; i += WIDTH) {
      Lanes x = Lanes::load(PIXELS.x + i), y = Lanes::load(PIXELS.y + i);
      Mask inside = (x < Lanes(width)) & (y < Lanes(height));
      (x + left).store(planes[X] + i);
      (y + top).store(planes[Y] + i);
      select(inside, one, zero).store(planes[T] + i);
      one.store(planes[LAST] + i);
      if (bits(inside)) live |= 1u << (i / BLOCK_PIXELS);
    }
    __builtin_memset(planes[RED], 0, sizeof(float) * TILE_PIXELS * (NUM_PLANES - RED));
  }

  // Pixels that this splat finished: remembers their T; drops the block when none of it is left.
  template <int N>
  S4D_HD void update(Pixels<N> at, const Bundle<N>& before, const Blend<N>& blend) {
    store<N>(at, T, blend.after);
    for (int i = 0; i < N; ++i) {
      Mask done = and_not(before.at[i] > Lanes(0.0f), blend.kept.at[i]);
      if (__builtin_expect(bits(done) != 0, 0)) finish(at[i], before.at[i], done);
    }
  }

  __attribute__((noinline)) void finish(float* at, Lanes before, Mask done) {
    float* last = at + LAST * TILE_PIXELS;
    select(done, before, Lanes::load(last)).store(last);
    int block = static_cast<int>(at - planes[0]) / BLOCK_PIXELS;
    bool any = false;
    for (int i = 0; i < BLOCK_PIXELS; ++i) any |= planes[T][block * BLOCK_PIXELS + i] > 0.0f;
    if (!any) live &= ~(1u << block);
  }
};

// Calls f(pixel in block order, offset of the pixel in the image) for the pixels of the tile inside the image.
template <class F>
S4D_HD void for_pixels(const TileTask& task, const Tile& tile, const F& f) {
  for (int y = 0; y < tile.height; ++y) {
    int64_t first = static_cast<int64_t>(task.tile_y * TILE + y) * task.view->width + task.tile_x * TILE;
    for (int x = 0; x < tile.width; x += 4) {
      int begin = block_of(x, y), inside = tile.width - x < 4 ? tile.width - x : 4;
      for (int i = 0; i < inside; ++i) f(begin + i, first + x + i);
    }
  }
}

// Background, alpha and expected depth, in place: T becomes alpha.
void finish_colors(const float* background, Tile& tile) {
  auto plane = [&](int k, int i) { return tile.planes[k] + i; };
  for (int i = 0; i < TILE_PIXELS; i += WIDTH) {
    Lanes left = Lanes::load(plane(T, i));
    left = select(left > Lanes(0.0f), left, Lanes::load(plane(LAST, i)));
    Lanes alpha = Lanes(1.0f) - left;
    alpha.store(plane(T, i));
    Lanes depth = Lanes::load(plane(DEPTH, i)) / max(alpha, Lanes(COVERAGE_MIN));
    select(alpha > Lanes(COVERAGE_MIN), depth, Lanes(0.0f)).store(plane(DEPTH, i));
    for (int c = 0; c < 3 && background; ++c)
      fma(left, Lanes(background[c]), Lanes::load(plane(RED + c, i))).store(plane(RED + c, i));
  }
}

void write_tile(const TileTask& task, Tile& tile, const float* extras) {
  finish_colors(task.view->background, tile);
  const s4d::RasterImages& image = task.images;
  for_pixels(task, tile, [&](int i, int64_t pixel) {
    for (int c = 0; c < 3; ++c) image.rgb[3 * pixel + c] = tile.planes[RED + c][i];
    image.alpha[pixel] = tile.planes[T][i];
    image.depth[pixel] = tile.planes[DEPTH][i];
  });
  if (image.median) for_pixels(task, tile, [&](int i, int64_t pixel) { image.median[pixel] = tile.planes[MEDIAN][i]; });
  int num_extras = task.view->num_extras;
  if (!num_extras) return;
  for_pixels(task, tile, [&](int i, int64_t pixel) {
    for (int e = 0; e < num_extras; ++e) image.extras[pixel * num_extras + e] = extras[e * TILE_PIXELS + i];
  });
}

template <bool EXTRAS, bool MEDIAN>
void raster_tile(const TileTask& task) {
  const View& view = *task.view;
  Tile tile(task);
  float* extras = task.scratch;
  if (EXTRAS) __builtin_memset(extras, 0, sizeof(float) * view.num_extras * TILE_PIXELS);
  for (int64_t k = 0; k < task.num_entries && tile.live; ++k) {
    const Entry& entry = task.entries[k];
    if (k + PREFETCH < task.num_entries) __builtin_prefetch(task.splats + task.entries[k + PREFETCH].splat);
    unsigned blocks = entry.blocks & tile.live;
    if (!blocks) continue;
    const Splat& splat = task.splats[entry.splat];
    const float* values = EXTRAS ? view.extras + static_cast<int64_t>(splat.row) * view.num_extras : nullptr;
    Stamp stamp(splat);
    for_vectors<2>(blocks, tile.planes[0], [&](const auto& at) S4D_INLINE {
      constexpr int N = sizeof(at) / sizeof(float*);
      Bundle<N> before = load<N>(at, T);
      Blend<N> blend(stamp, at, before);
      accumulate<N>(at, RED, blend.weight, stamp.red);
      accumulate<N>(at, GREEN, blend.weight, stamp.green);
      accumulate<N>(at, BLUE, blend.weight, stamp.blue);
      accumulate<N>(at, DEPTH, blend.weight, stamp.depth);
      if (EXTRAS)
        for (int e = 0; e < view.num_extras; ++e) {
          float* plane = extras + e * TILE_PIXELS;
          for (int i = 0; i < N; ++i) {
            float* sum = plane + (at[i] - tile.planes[0]);
            fma(blend.weight.at[i], Lanes(values[e]), Lanes::load(sum)).store(sum);
          }
        }
      if (MEDIAN) {
        BundleMask<N> half = (before > Bundle<N>(0.5f)) & (blend.after <= Bundle<N>(0.5f)) & blend.kept;
        store<N>(at, Plane::MEDIAN, select(half, Bundle<N>(stamp.depth), load<N>(at, Plane::MEDIAN)));
      }
      tile.update<N>(at, before, blend);
    });
  }
  write_tile(task, tile, extras);
}

// Colours and depth of the tile become the gradients of the sums that were blended, and plane S is filled.
// S of a pixel = (gradient . image), background and depth included, less T dL/dalpha: alpha = 1 - T lies behind everything.
void load_tile_grads(const TileTask& task, Tile& tile, float* extras) {
  auto& g = tile.planes;
  const s4d::RasterImages &image = task.images, &v = task.v_images;
  int num_extras = task.view->num_extras;
  if (num_extras) __builtin_memset(extras, 0, sizeof(float) * num_extras * TILE_PIXELS);
  if (v.rgb)
    for_pixels(task, tile, [&](int i, int64_t pixel) {
      const float *v_rgb = v.rgb + 3 * pixel, *rgb = image.rgb + 3 * pixel;
      g[RED][i] = v_rgb[0];
      g[GREEN][i] = v_rgb[1];
      g[BLUE][i] = v_rgb[2];
      g[S][i] = v_rgb[0] * rgb[0] + v_rgb[1] * rgb[1] + v_rgb[2] * rgb[2];
    });
  if (v.alpha)
    for_pixels(task, tile, [&](int i, int64_t pixel) { g[S][i] -= (1.0f - image.alpha[pixel]) * v.alpha[pixel]; });
  if (v.depth)
    for_pixels(task, tile, [&](int i, int64_t pixel) {
      float alpha = image.alpha[pixel];
      g[DEPTH][i] = alpha > COVERAGE_MIN ? v.depth[pixel] / alpha : 0.0f;
      g[S][i] += g[DEPTH][i] * image.depth[pixel];  // alpha for the blended depth, T for the division by alpha
    });
  if (num_extras && v.extras)
    for_pixels(task, tile, [&](int i, int64_t pixel) {
      for (int e = 0; e < num_extras; ++e) {
        float v_extra = v.extras[pixel * num_extras + e];
        extras[e * TILE_PIXELS + i] = v_extra;
        g[S][i] += v_extra * image.extras[pixel * num_extras + e];
      }
    });
}

// Sums over the pixels of an entry; the order of Stages::project_vjp.
struct EntrySums {
  Lanes h, hx, hy, hxx, hxy, hyy, red, green, blue, depth, abs_u, abs_v;
  EntrySums()
      : h(0.0f), hx(0.0f), hy(0.0f), hxx(0.0f), hxy(0.0f), hyy(0.0f), red(0.0f), green(0.0f), blue(0.0f),
        depth(0.0f), abs_u(0.0f), abs_v(0.0f) {}

  void store(float* slot) const {
    store_sums<4>(slot, h, hx, hy, hxx);
    store_sums<4>(slot + 4, hxy, hyy, red, green);
    store_sums<2>(slot + 8, blue, depth, blue, depth);
  }
};

// `seen` = gradient . (colour, depth, extras) of the splat.
template <bool DEPTH, bool ABS, int N>
S4D_HD void blend_vjp(const Stamp& s, const Blend<N>& b, Pixels<N> at, const Bundle<N>& before, const Bundle<N>& seen,
                      EntrySums& sums) {
  using L = Bundle<N>;
  L behind = fnma(b.weight, seen, load<N>(at, S));
  store<N>(at, S, behind);
  L v_alpha = fnma(behind, reciprocal(L(1.0f) - b.alpha), before * seen);
  BundleMask<N> moving = b.kept & (b.raw < L(ALPHA_MAX));  // below ALPHA_MIN, alpha is 0 and so is h
  L h = select(moving, b.alpha * v_alpha, L(0.0f)), hx = h * b.dx, hy = h * b.dy;
  for (int i = 0; i < N; ++i) {
    Lanes weight = b.weight.at[i];
    sums.h = sums.h + h.at[i];
    sums.hx = sums.hx + hx.at[i];
    sums.hy = sums.hy + hy.at[i];
    sums.hxx = fma(hx.at[i], b.dx.at[i], sums.hxx);
    sums.hxy = fma(hx.at[i], b.dy.at[i], sums.hxy);
    sums.hyy = fma(hy.at[i], b.dy.at[i], sums.hyy);
    sums.red = fma(weight, Lanes::load(at[i] + RED * TILE_PIXELS), sums.red);
    sums.green = fma(weight, Lanes::load(at[i] + GREEN * TILE_PIXELS), sums.green);
    sums.blue = fma(weight, Lanes::load(at[i] + BLUE * TILE_PIXELS), sums.blue);
    if (DEPTH) sums.depth = fma(weight, Lanes::load(at[i] + Plane::DEPTH * TILE_PIXELS), sums.depth);
  }
  if (ABS) {
    L v_u = fma(L(s.a * Lanes(2.0f * LN_2)), hx, L(s.b * Lanes(LN_2)) * hy);
    L v_v = fma(L(s.c * Lanes(2.0f * LN_2)), hy, L(s.b * Lanes(LN_2)) * hx);
    for (int i = 0; i < N; ++i) {
      sums.abs_u = sums.abs_u + abs(v_u.at[i]);
      sums.abs_v = sums.abs_v + abs(v_v.at[i]);
    }
  }
}

template <bool DEPTH, bool EXTRAS, bool ABS>
void raster_tile_vjp(const TileTask& task) {
  const View& view = *task.view;
  Tile tile(task);
  float *v_extras = task.scratch, *extra_sums = task.scratch + view.num_extras * TILE_PIXELS;
  load_tile_grads(task, tile, v_extras);
  int64_t stride = s4d::slot_floats(view, ABS);
  for (int64_t k = 0; k < task.num_entries; ++k) {
    const Entry& entry = task.entries[k];
    if (k + PREFETCH < task.num_entries) __builtin_prefetch(task.splats + task.entries[k + PREFETCH].splat);
    float* slot = task.slots + entry.slot * stride;
    unsigned blocks = entry.blocks & tile.live;
    if (!blocks) {
      __builtin_memset(slot, 0, sizeof(float) * stride);
      continue;
    }
    const Splat& splat = task.splats[entry.splat];
    const float* values = EXTRAS ? view.extras + static_cast<int64_t>(splat.row) * view.num_extras : nullptr;
    if (EXTRAS) __builtin_memset(extra_sums, 0, sizeof(float) * view.num_extras * WIDTH);
    Stamp stamp(splat);
    EntrySums sums;
    for_vectors<1>(blocks, tile.planes[0], [&](const auto& at) S4D_INLINE {
      constexpr int N = sizeof(at) / sizeof(float*);
      using L = Bundle<N>;
      L before = load<N>(at, T);
      Blend<N> blend(stamp, at, before);
      L seen = L(stamp.blue) * load<N>(at, BLUE);
      seen = fma(L(stamp.red), load<N>(at, RED), fma(L(stamp.green), load<N>(at, GREEN), seen));
      if (DEPTH) seen = fma(L(stamp.depth), load<N>(at, Plane::DEPTH), seen);
      if (EXTRAS)
        for (int e = 0; e < view.num_extras; ++e)
          for (int i = 0; i < N; ++i) {
            Lanes v_extra = Lanes::load(v_extras + e * TILE_PIXELS + (at[i] - tile.planes[0]));
            seen.at[i] = fma(Lanes(values[e]), v_extra, seen.at[i]);
            float* sum = extra_sums + e * WIDTH;
            fma(blend.weight.at[i], v_extra, Lanes::load(sum)).store(sum);
          }
      blend_vjp<DEPTH, ABS, N>(stamp, blend, at, before, seen, sums);
      tile.update<N>(at, before, blend);
    });
    sums.store(slot);
    if (EXTRAS)
      for (int e = 0; e < view.num_extras; ++e)
        slot[s4d::FIXED_SUMS + e] = sum(Lanes::load(extra_sums + e * WIDTH));
    if (ABS) {
      slot[stride - 2] = sum(sums.abs_u);
      slot[stride - 1] = sum(sums.abs_v);
    }
  }
}

}  // namespace

void raster(const s4d::TileTask& task) {
  using Tile = void (*)(const s4d::TileTask&);
  static constexpr Tile TILES[2][2] = {{raster_tile<false, false>, raster_tile<false, true>},
                                       {raster_tile<true, false>, raster_tile<true, true>}};
  TILES[task.view->num_extras > 0][task.images.median != nullptr](task);
}

void raster_vjp(const s4d::TileTask& task) {
  using Tile = void (*)(const s4d::TileTask&);
  static constexpr Tile TILES[2][2][2] = {
      {{raster_tile_vjp<false, false, false>, raster_tile_vjp<false, false, true>},
       {raster_tile_vjp<false, true, false>, raster_tile_vjp<false, true, true>}},
      {{raster_tile_vjp<true, false, false>, raster_tile_vjp<true, false, true>},
       {raster_tile_vjp<true, true, false>, raster_tile_vjp<true, true, true>}}};
  TILES[task.v_images.depth != nullptr][task.view->num_extras > 0][task.abs_sums](task);
}

}  // namespace S4D_NS
