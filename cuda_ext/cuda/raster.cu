// Blends tile lists front to back: one warp a tile, two pixels a lane, nothing shared between warps, so that a warp
// stops on its own when its tile is opaque.
#include "blend.h"
#include "scene.h"

namespace s4d_cuda {
namespace {

constexpr int WARPS = 4;

template <int E>
struct PixelSums {
  float T;     // 0 = done
  float last;  // T after the last splat that was blended
  float red, green, blue, depth, median;
  float extras[E > 0 ? E : 1];

  S4D_DEVICE explicit PixelSums(bool inside)
      : T(inside ? 1.0f : 0.0f), last(1.0f), red(0.0f), green(0.0f), blue(0.0f), depth(0.0f), median(0.0f) {
    S4D_UNROLL
    for (float& x : extras) x = 0.0f;
  }

  template <bool COLORS, bool MEDIAN>
  S4D_DEVICE void add(const Stamp& s, const float* values, float dx, float dy) {
    Blend b = blend(s, dx, dy, T);
    if constexpr (COLORS) {
      red = fma(b.weight, s.red, red);
      green = fma(b.weight, s.green, green);
      blue = fma(b.weight, s.blue, blue);
      depth = fma(b.weight, s.depth, depth);
    }
    if constexpr (MEDIAN) median = T > 0.5f && b.kept && b.after <= 0.5f ? s.depth : median;
    if constexpr (E > 0) {
      S4D_UNROLL
      for (int c = 0; c < E; ++c) extras[c] = fma(b.weight, values[c], extras[c]);
    }
    T = b.after;
    last = b.kept ? b.after : last;
  }

  S4D_DEVICE void write_colors(const s4d::RasterImages& out, const float* background, int64_t pixel) const {
    float back[3] = {0.0f, 0.0f, 0.0f};
    if (background) back[0] = background[0], back[1] = background[1], back[2] = background[2];
    out.rgb[3 * pixel] = fma(last, back[0], red);
    out.rgb[3 * pixel + 1] = fma(last, back[1], green);
    out.rgb[3 * pixel + 2] = fma(last, back[2], blue);
    float alpha = 1.0f - last;
    out.alpha[pixel] = alpha;
    out.depth[pixel] = alpha > COVERAGE_MIN ? depth / alpha : 0.0f;
    if (out.median) out.median[pixel] = median;
  }

  S4D_DEVICE void write_extras(float* out, int64_t pixel, int first, int num_extras) const {
    if constexpr (E > 0) {
      S4D_UNROLL
      for (int c = 0; c < E; ++c)
        if (first + c < num_extras) out[pixel * num_extras + first + c] = extras[c];
    }
  }
};

template <int E, bool COLORS, bool MEDIAN>
__global__ void __launch_bounds__(WARPS* WARP) raster_tiles(Scene s, TileLists lists, s4d::RasterImages out,
                                                            int first_extra) {
  struct Shared {
    Batch<E> batches[WARPS];
  };
  S4D_SHARED(Shared, shared);
  int64_t tile = static_cast<int64_t>(blockIdx.x) * WARPS + warp_index();
  if (tile >= s.num_tiles) return;  // the whole warp; warps have nothing in common
  Batch<E>& batch = shared.batches[warp_index()];
  TilePlace place(s, lists.ranges, tile);
  PixelSums<E> upper(place.inside(s, 0)), lower(place.inside(s, 1));
  float x = static_cast<float>(place.x) + 0.5f, y = static_cast<float>(place.y) + 0.5f;
  Fetched<E> next;
  next.load(s, lists, place.begin + lane_index(), place.end, first_extra);
  unsigned live = live_halves(upper.T, lower.T);
  for (uint32_t start = place.begin; start < place.end && live; start += WARP) {
    batch.store(next);
    __syncwarp();
    next.load(s, lists, start + WARP + lane_index(), place.end, first_extra);
    int size = static_cast<int>(place.end - start < WARP ? place.end - start : WARP);
    for (int j = 0; j < size; ++j) {
      const Stamp stamp = batch.stamps[j];
      float dx = x - stamp.u, dy = y - stamp.v;
      unsigned halves = stamp.flags & live;  // the same for all lanes
      if (halves & 1u) upper.template add<COLORS, MEDIAN>(stamp, batch.extras[j], dx, dy);
      if (halves & 2u) lower.template add<COLORS, MEDIAN>(stamp, batch.extras[j], dx, dy + HALF);
    }
    live = live_halves(upper.T, lower.T);
    __syncwarp();
  }
  const float* background = s.in.background ? s.in.background + place.view * 3 : nullptr;
  S4D_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (!place.inside(s, half)) continue;
    const PixelSums<E>& sums = half ? lower : upper;
    int64_t pixel = place.pixel(s, half);
    if constexpr (COLORS) sums.write_colors(out, background, pixel);
    sums.write_extras(out.extras, pixel, first_extra, s.num_extras);
  }
}

struct RasterLaunch {
  const Scene& scene;
  TileLists lists;
  const s4d::RasterImages& out;
  int first_extra;
  Stream stream;

  template <int E>
  void run() const {
    int64_t blocks = ceil_div(scene.num_tiles, WARPS);
    auto kernel = raster_tiles<E, true, false>;
    if (out.median) kernel = raster_tiles<E, true, true>;
    if constexpr (E > 0)
      if (first_extra > 0) kernel = raster_tiles<E, false, false>;
    launch(kernel, blocks, WARPS * WARP, stream, scene, lists, out, first_extra);
  }
};

}  // namespace

void raster(const Scene& scene, const Rows& rows, const Entries& entries, const s4d::RasterImages& out, Stream stream) {
  TileLists lists = {entries.ranges, entries.sorted_keys, entries.sorted, rows.stamps};
  int first = 0;
  do {
    for_extras(scene.num_extras - first, RasterLaunch{scene, lists, out, first, stream});
    first += EXTRAS_AT_ONCE;
  } while (first < scene.num_extras);
}

}  // namespace s4d_cuda
