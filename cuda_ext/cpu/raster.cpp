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

constexpr int BLOCK_PIXELS = 16;
constexpr int PREFETCH = 6;

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

// A splat broadcast to lanes, its centre counted from the tile's corner.
struct Stamp {
  Lanes u, v, a, b, c, log2_opacity, red, green, blue, depth;
  S4D_HD Stamp(const Splat& s, float left, float top)
      : u(s.u - left), v(s.v - top), a(s.a), b(s.b), c(s.c), log2_opacity(s.log2_opacity), red(s.rgb[0]),
        green(s.rgb[1]), blue(s.rgb[2]), depth(s.depth) {}
};

// What one splat does at WIDTH pixels. Forward and backward share it, so that alpha is the same to the bit.
struct Blend {
  Lanes dx, dy, raw, alpha, weight, after;
  Mask kept;
  S4D_HD Blend(const Stamp& s, int pixel, Lanes before) {
    dx = Lanes::load(PIXELS.x + pixel) - s.u;
    dy = Lanes::load(PIXELS.y + pixel) - s.v;
    raw = exp2(log2_alpha(dx, dy, s.a, s.b, s.c, s.log2_opacity));
    alpha = select(raw >= Lanes(ALPHA_MIN), min(raw, Lanes(ALPHA_MAX)), Lanes(0.0f));
    after = fnma(alpha, before, before);
    kept = after > Lanes(TRANSMITTANCE_MIN);  // false for pixels that are done: their T is 0
    weight = select(kept, alpha * before, Lanes(0.0f));
    after = select(kept, after, Lanes(0.0f));
  }
};

S4D_HD int block_of(int x, int y) { return (y / 4 * 4 + x / 4) * BLOCK_PIXELS + y % 4 * 4 + x % 4; }

struct TileState {
  alignas(64) float T[TILE_PIXELS];  // 0 = done
  alignas(64) float last[TILE_PIXELS];  // T of a pixel that is done
  int width, height;                 // pixels of the tile inside the image
  unsigned live;                     // blocks with a pixel that is not done

  explicit TileState(const TileTask& task) : live(0) {
    const View& view = *task.view;
    width = view.width - task.tile_x * TILE < TILE ? view.width - task.tile_x * TILE : TILE;
    height = view.height - task.tile_y * TILE < TILE ? view.height - task.tile_y * TILE : TILE;
    for (int i = 0; i < TILE_PIXELS; ++i) {
      bool inside = PIXELS.x[i] < width && PIXELS.y[i] < height;
      T[i] = inside ? 1.0f : 0.0f;
      last[i] = 1.0f;
      if (inside) live |= 1u << (i / BLOCK_PIXELS);
    }
  }

  // Pixels that this splat finished: remembers their T; drops the block when none of it is left.
  S4D_HD void update(int pixel, Lanes before, const Blend& blend) {
    blend.after.store(T + pixel);
    Mask done = (blend.after <= Lanes(0.0f)) & (before > Lanes(0.0f));
    if (__builtin_expect(bits(done) != 0, 0)) finish(pixel, before, done);
  }

  void finish(int pixel, Lanes before, Mask done) {
    select(done, before, Lanes::load(last + pixel)).store(last + pixel);
    int block = pixel / BLOCK_PIXELS;
    bool any = false;
    for (int i = 0; i < BLOCK_PIXELS; ++i) any |= T[block * BLOCK_PIXELS + i] > 0.0f;
    if (!any) live &= ~(1u << block);
  }

  float remaining(int pixel) const { return T[pixel] > 0.0f ? T[pixel] : last[pixel]; }
};

S4D_HD void accumulate(float* sum, Lanes weight, Lanes value) {
  fma(weight, value, Lanes::load(sum)).store(sum);
}

struct TileColors {
  alignas(64) float red[TILE_PIXELS], green[TILE_PIXELS], blue[TILE_PIXELS], depth[TILE_PIXELS];
  TileColors() { __builtin_memset(this, 0, sizeof *this); }
};

// Calls f(pixel in block order, offset of the pixel in the image) for the pixels of the tile inside the image.
template <class F>
S4D_HD void for_pixels(const TileTask& task, const TileState& state, const F& f) {
  for (int y = 0; y < state.height; ++y) {
    int64_t first = static_cast<int64_t>(task.tile_y * TILE + y) * task.view->width + task.tile_x * TILE;
    for (int x = 0; x < state.width; x += 4) {
      int begin = block_of(x, y), inside = state.width - x < 4 ? state.width - x : 4;
      for (int i = 0; i < inside; ++i) f(begin + i, first + x + i);
    }
  }
}

// Background, alpha and expected depth, in place: T becomes alpha.
void finish_colors(const float* background, TileState& state, TileColors& colors) {
  for (int i = 0; i < TILE_PIXELS; i += WIDTH) {
    Lanes T = Lanes::load(state.T + i);
    T = select(T > Lanes(0.0f), T, Lanes::load(state.last + i));
    Lanes alpha = Lanes(1.0f) - T;
    alpha.store(state.T + i);
    Lanes depth = Lanes::load(colors.depth + i) / max(alpha, Lanes(COVERAGE_MIN));
    select(alpha > Lanes(COVERAGE_MIN), depth, Lanes(0.0f)).store(colors.depth + i);
    if (!background) continue;
    fma(T, Lanes(background[0]), Lanes::load(colors.red + i)).store(colors.red + i);
    fma(T, Lanes(background[1]), Lanes::load(colors.green + i)).store(colors.green + i);
    fma(T, Lanes(background[2]), Lanes::load(colors.blue + i)).store(colors.blue + i);
  }
}

void write_tile(const TileTask& task, TileState& state, TileColors& colors, const float* extras) {
  finish_colors(task.view->background, state, colors);
  const s4d::RasterImages& image = task.images;
  for_pixels(task, state, [&](int i, int64_t pixel) {
    image.rgb[3 * pixel] = colors.red[i];
    image.rgb[3 * pixel + 1] = colors.green[i];
    image.rgb[3 * pixel + 2] = colors.blue[i];
    image.alpha[pixel] = state.T[i];
    image.depth[pixel] = colors.depth[i];
  });
  int num_extras = task.view->num_extras;
  if (!num_extras) return;
  for_pixels(task, state, [&](int i, int64_t pixel) {
    for (int e = 0; e < num_extras; ++e) image.extras[pixel * num_extras + e] = extras[e * TILE_PIXELS + i];
  });
}

template <bool EXTRAS>
void raster_tile(const TileTask& task) {
  const View& view = *task.view;
  TileState state(task);
  TileColors colors;
  float* extras = task.scratch;
  if (EXTRAS) __builtin_memset(extras, 0, sizeof(float) * view.num_extras * TILE_PIXELS);
  float left = static_cast<float>(task.tile_x * TILE), top = static_cast<float>(task.tile_y * TILE);
  for (int64_t k = 0; k < task.num_entries && state.live; ++k) {
    const Entry& entry = task.entries[k];
    if (k + PREFETCH < task.num_entries) __builtin_prefetch(task.splats + task.entries[k + PREFETCH].splat);
    unsigned blocks = entry.blocks & state.live;
    if (!blocks) continue;
    const Splat& splat = task.splats[entry.splat];
    const float* values = EXTRAS ? view.extras + static_cast<int64_t>(splat.row) * view.num_extras : nullptr;
    Stamp stamp(splat, left, top);
    for (; blocks; blocks &= blocks - 1) {
      int begin = __builtin_ctz(blocks) * BLOCK_PIXELS;
      for (int pixel = begin; pixel < begin + BLOCK_PIXELS; pixel += WIDTH) {
        Lanes before = Lanes::load(state.T + pixel);
        Blend blend(stamp, pixel, before);
        accumulate(colors.red + pixel, blend.weight, stamp.red);
        accumulate(colors.green + pixel, blend.weight, stamp.green);
        accumulate(colors.blue + pixel, blend.weight, stamp.blue);
        accumulate(colors.depth + pixel, blend.weight, stamp.depth);
        if (EXTRAS)
          for (int e = 0; e < view.num_extras; ++e)
            accumulate(extras + e * TILE_PIXELS + pixel, blend.weight, Lanes(values[e]));
        state.update(pixel, before, blend);
      }
    }
  }
  write_tile(task, state, colors, extras);
}

// Per pixel: the gradients of the sums that were blended (colour, weighted depth, extras), and S.
struct TileGrads {
  alignas(64) float red[TILE_PIXELS], green[TILE_PIXELS], blue[TILE_PIXELS], depth[TILE_PIXELS], S[TILE_PIXELS];
};

// S of a pixel = (gradient . image), background and depth included, less T dL/dalpha: alpha = 1 - T lies behind everything.
void load_tile_grads(const TileTask& task, const TileState& state, TileGrads& g, float* extras) {
  __builtin_memset(&g, 0, sizeof g);
  const s4d::RasterImages &image = task.images, &v = task.v_images;
  int num_extras = task.view->num_extras;
  if (num_extras) __builtin_memset(extras, 0, sizeof(float) * num_extras * TILE_PIXELS);
  if (v.rgb)
    for_pixels(task, state, [&](int i, int64_t pixel) {
      const float *v_rgb = v.rgb + 3 * pixel, *rgb = image.rgb + 3 * pixel;
      g.red[i] = v_rgb[0];
      g.green[i] = v_rgb[1];
      g.blue[i] = v_rgb[2];
      g.S[i] = v_rgb[0] * rgb[0] + v_rgb[1] * rgb[1] + v_rgb[2] * rgb[2];
    });
  if (v.alpha)
    for_pixels(task, state, [&](int i, int64_t pixel) { g.S[i] -= (1.0f - image.alpha[pixel]) * v.alpha[pixel]; });
  if (v.depth)
    for_pixels(task, state, [&](int i, int64_t pixel) {
      float alpha = image.alpha[pixel];
      g.depth[i] = alpha > COVERAGE_MIN ? v.depth[pixel] / alpha : 0.0f;
      g.S[i] += g.depth[i] * image.depth[pixel];  // alpha for the blended depth, T for the division by alpha
    });
  if (num_extras && v.extras)
    for_pixels(task, state, [&](int i, int64_t pixel) {
      for (int e = 0; e < num_extras; ++e) {
        float v_extra = v.extras[pixel * num_extras + e];
        extras[e * TILE_PIXELS + i] = v_extra;
        g.S[i] += v_extra * image.extras[pixel * num_extras + e];
      }
    });
}

// Sums over the pixels of an entry; the order of Stages::project_vjp.
struct EntrySums {
  Lanes h, hx, hy, hxx, hxy, hyy, red, green, blue, depth;
  EntrySums()
      : h(0.0f), hx(0.0f), hy(0.0f), hxx(0.0f), hxy(0.0f), hyy(0.0f), red(0.0f), green(0.0f), blue(0.0f),
        depth(0.0f) {}

  void store(float* slot) const {
    const Lanes all[s4d::FIXED_SUMS] = {h, hx, hy, hxx, hxy, hyy, red, green, blue, depth};
    for (int j = 0; j < s4d::FIXED_SUMS; ++j) slot[j] = sum(all[j]);
  }
};

// `seen` = c . g so far without depth and extras, which this adds.
template <bool DEPTH>
S4D_HD void blend_vjp(const Stamp& s, const Blend& b, int pixel, Lanes before, Lanes seen, const TileGrads& g,
                      Lanes S_before, float* S_out, EntrySums& sums) {
  Lanes S = fnma(b.weight, seen, S_before);
  S.store(S_out);
  Lanes v_alpha = fnma(S, reciprocal(Lanes(1.0f) - b.alpha), before * seen);
  Mask moving = b.kept & (b.raw >= Lanes(ALPHA_MIN)) & (b.raw < Lanes(ALPHA_MAX));
  Lanes h = select(moving, b.alpha * v_alpha, Lanes(0.0f));
  Lanes hx = h * b.dx, hy = h * b.dy;
  sums.h = sums.h + h;
  sums.hx = sums.hx + hx;
  sums.hy = sums.hy + hy;
  sums.hxx = fma(hx, b.dx, sums.hxx);
  sums.hxy = fma(hx, b.dy, sums.hxy);
  sums.hyy = fma(hy, b.dy, sums.hyy);
  sums.red = fma(b.weight, Lanes::load(g.red + pixel), sums.red);
  sums.green = fma(b.weight, Lanes::load(g.green + pixel), sums.green);
  sums.blue = fma(b.weight, Lanes::load(g.blue + pixel), sums.blue);
  if (DEPTH) sums.depth = fma(b.weight, Lanes::load(g.depth + pixel), sums.depth);
}

template <bool DEPTH, bool EXTRAS>
void raster_tile_vjp(const TileTask& task) {
  const View& view = *task.view;
  TileState state(task);
  TileGrads g;
  float *v_extras = task.scratch, *extra_sums = task.scratch + view.num_extras * TILE_PIXELS;
  load_tile_grads(task, state, g, v_extras);
  float left = static_cast<float>(task.tile_x * TILE), top = static_cast<float>(task.tile_y * TILE);
  int64_t stride = s4d::FIXED_SUMS + view.num_extras;
  for (int64_t k = 0; k < task.num_entries; ++k) {
    const Entry& entry = task.entries[k];
    if (k + PREFETCH < task.num_entries) __builtin_prefetch(task.splats + task.entries[k + PREFETCH].splat);
    float* slot = task.slots + entry.slot * stride;
    unsigned blocks = entry.blocks & state.live;
    if (!blocks) {
      __builtin_memset(slot, 0, sizeof(float) * stride);
      continue;
    }
    const Splat& splat = task.splats[entry.splat];
    const float* values = EXTRAS ? view.extras + static_cast<int64_t>(splat.row) * view.num_extras : nullptr;
    if (EXTRAS) __builtin_memset(extra_sums, 0, sizeof(float) * view.num_extras * WIDTH);
    Stamp stamp(splat, left, top);
    EntrySums sums;
    for (; blocks; blocks &= blocks - 1) {
      int begin = __builtin_ctz(blocks) * BLOCK_PIXELS;
      for (int pixel = begin; pixel < begin + BLOCK_PIXELS; pixel += WIDTH) {
        Lanes before = Lanes::load(state.T + pixel);
        Blend blend(stamp, pixel, before);
        Lanes seen = stamp.blue * Lanes::load(g.blue + pixel);
        seen = fma(stamp.red, Lanes::load(g.red + pixel), fma(stamp.green, Lanes::load(g.green + pixel), seen));
        if (DEPTH) seen = fma(stamp.depth, Lanes::load(g.depth + pixel), seen);
        if (EXTRAS) {
          for (int e = 0; e < view.num_extras; ++e) {
            Lanes v_extra = Lanes::load(v_extras + e * TILE_PIXELS + pixel);
            seen = fma(Lanes(values[e]), v_extra, seen);
            accumulate(extra_sums + e * WIDTH, blend.weight, v_extra);
          }
        }
        blend_vjp<DEPTH>(stamp, blend, pixel, before, seen, g, Lanes::load(g.S + pixel), g.S + pixel, sums);
        state.update(pixel, before, blend);
      }
    }
    sums.store(slot);
    if (EXTRAS)
      for (int e = 0; e < view.num_extras; ++e)
        slot[s4d::FIXED_SUMS + e] = sum(Lanes::load(extra_sums + e * WIDTH));
  }
}

}  // namespace

void raster(const s4d::TileTask& task) {
  if (task.view->num_extras)
    raster_tile<true>(task);
  else
    raster_tile<false>(task);
}

void raster_vjp(const s4d::TileTask& task) {
  bool depth = task.v_images.depth, extras = task.view->num_extras > 0;
  if (depth && extras)
    raster_tile_vjp<true, true>(task);
  else if (depth)
    raster_tile_vjp<true, false>(task);
  else if (extras)
    raster_tile_vjp<false, true>(task);
  else
    raster_tile_vjp<false, false>(task);
}

}  // namespace S4D_NS
