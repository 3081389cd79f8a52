// The gradients of the tile lists, front to back, one warp a tile. Backward keeps one scalar a pixel instead of storing
// anything: S = what the loss still gains from the Gaussians behind, so dL/dalpha = T (c . g) - S / (1 - alpha).
//
// Sums over pixels are not reduced across lanes, which would cost more than the blending. In turns of HITS entries,
// first every lane is two pixels and leaves h = alpha dL/dalpha and its blending weight in shared memory; then every
// lane is half a tile of one entry and adds up what is there. So a slot has one writer, and the order of every sum is
// fixed.
#include "blend.h"
#include "scene.h"

namespace s4d_cuda {
namespace {

constexpr int WARPS = 2;
constexpr int HITS = 16;
static_assert(WARP == 2 * HITS, "in the second part, a lane is one half of one entry");

template <int E>
struct WarpMemory {
  Batch<E> batch;
  uint32_t slots[WARP], gaussians[WARP];
  float4 h[2][HITS][WARP / 4 + 1], weight[2][HITS][WARP / 4 + 1];  // padded: no bank conflicts in either part
  float4 grads[2][WARP];                                           // of a pixel: colours, blended depth
  float extra_grads[E > 0 ? E : 1][2][WARP];
};

// `i` is known when this is compiled; the four parts are one load.
S4D_DEVICE float part(const float4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Gradients of what was blended at one pixel, and S.
template <int E>
struct PixelGrads {
  float T, S;
  float red, green, blue, depth;
  float extras[E > 0 ? E : 1];
  const float* more;  // gradients of the channels that did not fit

  // S = (gradient . image), background and depth included, less T dL/dalpha: alpha = 1 - T lies behind everything.
  S4D_DEVICE void load(const Scene& s, const s4d::RasterImages& image, const s4d::RasterImages& v, int64_t pixel,
                       bool inside) {
    T = inside ? 1.0f : 0.0f;
    S = red = green = blue = depth = 0.0f;
    more = nullptr;
    S4D_UNROLL
    for (float& x : extras) x = 0.0f;
    if (!inside) return;
    if (v.rgb) {
      const float *g = v.rgb + 3 * pixel, *rgb = image.rgb + 3 * pixel;
      red = g[0], green = g[1], blue = g[2];
      S = g[0] * rgb[0] + g[1] * rgb[1] + g[2] * rgb[2];
    }
    float alpha = image.alpha[pixel];
    if (v.alpha) S -= (1.0f - alpha) * v.alpha[pixel];
    if (v.depth) {
      depth = alpha > COVERAGE_MIN ? v.depth[pixel] / alpha : 0.0f;
      S = fma(depth, image.depth[pixel], S);  // alpha for the blended depth, T for the division by alpha
    }
    if constexpr (E > 0) {
      more = v.extras + pixel * s.num_extras;
      for (int c = 0; c < s.num_extras; ++c) S = fma(more[c], image.extras[pixel * s.num_extras + c], S);
      load_extras(more, 0, s.num_extras);
    }
  }

  S4D_DEVICE void load_extras(const float* v, int first, int num_extras) {
    S4D_UNROLL
    for (int c = 0; c < E; ++c) extras[c] = first + c < num_extras ? v[first + c] : 0.0f;
  }

  // c . g of one splat; `values` are its first E extra channels, `others` all of them.
  S4D_DEVICE float seen(const Stamp& s, const float* values, const float* others, int num_extras) const {
    float sum = fma(s.red, red, fma(s.green, green, fma(s.blue, blue, s.depth * depth)));
    if constexpr (E > 0) {
      S4D_UNROLL
      for (int c = 0; c < E; ++c) sum = fma(values[c], extras[c], sum);
      if (more)
        for (int c = E; c < num_extras; ++c) sum = fma(others[c], more[c], sum);
    }
    return sum;
  }

  // Steps past one splat; returns h = alpha dL/dalpha.
  S4D_DEVICE float step(const Blend& b, float seen) {
    S = fma(-b.weight, seen, S);
    float v_alpha = fma(-S, reciprocal(1.0f - b.alpha), T * seen);
    bool moving = b.kept && b.raw >= ALPHA_MIN && b.raw < ALPHA_MAX;
    return moving ? b.alpha * v_alpha : 0.0f;
  }
};

// Sums over the pixels of an entry, in the order of a slot.
template <int E, bool FIRST, bool ABS>
struct EntrySums {
  static constexpr int FIXED = FIRST ? FIXED_SUMS + (ABS ? ABS_SUMS : 0) : 0;
  float values[FIXED + E > 0 ? FIXED + E : 1];

  S4D_DEVICE EntrySums() {
    S4D_UNROLL
    for (float& x : values) x = 0.0f;
  }

  S4D_DEVICE void add_colors(float weight, const float4& g) {
    values[6] = fma(weight, g.x, values[6]);
    values[7] = fma(weight, g.y, values[7]);
    values[8] = fma(weight, g.z, values[8]);
    values[9] = fma(weight, g.w, values[9]);
  }

  S4D_DEVICE void add_row(float sum, float sum_x, float sum_xx, float dy) {
    values[0] += sum;
    values[1] += sum_x;
    values[2] = fma(dy, sum, values[2]);
    values[3] += sum_xx;
    values[4] = fma(dy, sum_x, values[4]);
    values[5] = fma(dy * dy, sum, values[5]);
  }

  S4D_DEVICE void add_abs(const Stamp& s, float h, float dx, float dy) {
    values[FIXED_SUMS] += ::fabsf(h * LN_2 * fma(2.0f * s.a, dx, s.b * dy));
    values[FIXED_SUMS + 1] += ::fabsf(h * LN_2 * fma(s.b, dx, 2.0f * s.c * dy));
  }

  // The pixels of one half; dx, dy: from the centre of the splat to the first of them.
  S4D_DEVICE void add_half(const WarpMemory<E>& memory, const Stamp& s, int half, int hit, float dx, float dy) {
    S4D_NO_UNROLL  // eight pixels in flight are enough, and leave registers
    for (int y = 0; y < HALF; ++y) {
      float sum = 0.0f, sum_x = 0.0f, sum_xx = 0.0f, row_dy = dy + static_cast<float>(y);
      S4D_UNROLL
      for (int x = 0; x < TILE; ++x) {
        int pixel = y * TILE + x;
        float weight = part(memory.weight[half][hit][pixel / 4], x % 4);
        if constexpr (FIRST) {
          float h = part(memory.h[half][hit][pixel / 4], x % 4), here = dx + static_cast<float>(x), hx = h * here;
          sum += h;
          sum_x += hx;
          sum_xx = fma(hx, here, sum_xx);
          add_colors(weight, memory.grads[half][pixel]);
          if constexpr (ABS) add_abs(s, h, here, row_dy);
        }
        if constexpr (E > 0) {
          S4D_UNROLL
          for (int c = 0; c < E; ++c)
            values[FIXED + c] = fma(weight, memory.extra_grads[c][half][pixel], values[FIXED + c]);
        }
      }
      if constexpr (FIRST) add_row(sum, sum_x, sum_xx, row_dy);
    }
  }

  // Adds the other half's sums; each of the two lanes writes every other value.
  S4D_DEVICE void write(float* slot, int half, int num_values, bool wanted) {
    S4D_UNROLL
    for (int j = 0; j < FIXED + E; ++j) {
      float total = values[j] + __shfl_xor_sync(FULL_WARP, values[j], HITS);
      if (wanted && j < num_values && j % 2 == half) slot[j] = total;
    }
  }
};

struct VjpTask {
  s4d::RasterImages images, v_images;
  float* slots;
  int stride, first_extra;
};

template <int E, bool FIRST, bool ABS>
struct TileVjp {
  const Scene& s;
  const VjpTask& task;
  WarpMemory<E>& memory;
  TilePlace place;
  PixelGrads<E> pixels[2];

  S4D_DEVICE TileVjp(const Scene& scene, const VjpTask& task, const TileLists& lists, WarpMemory<E>& memory,
                     int64_t tile)
      : s(scene), task(task), memory(memory), place(scene, lists.ranges, tile) {
    S4D_UNROLL
    for (int half = 0; half < 2; ++half) {
      bool inside = place.inside(s, half);
      int64_t pixel = place.pixel(s, half);
      PixelGrads<E>& p = pixels[half];
      if constexpr (FIRST) {
        p.load(s, task.images, task.v_images, pixel, inside);
        memory.grads[half][lane_index()] = make_float4(p.red, p.green, p.blue, p.depth);
      } else {
        p.T = inside ? 1.0f : 0.0f;
        S4D_UNROLL
        for (float& x : p.extras) x = 0.0f;
        if (inside) p.load_extras(task.v_images.extras + pixel * s.num_extras, task.first_extra, s.num_extras);
      }
      S4D_UNROLL
      for (int c = 0; c < E; ++c) memory.extra_grads[c][half][lane_index()] = p.extras[c];
    }
  }

  // A lane is two pixels.
  S4D_DEVICE void pixels_of(int first, int count, unsigned live) {
    float x = static_cast<float>(place.x) + 0.5f, y = static_cast<float>(place.y) + 0.5f;
    for (int hit = 0; hit < count; ++hit) {
      const Stamp stamp = memory.batch.stamps[first + hit];
      unsigned halves = stamp.flags & live;  // the same for all lanes
      const float* others = nullptr;
      if constexpr (FIRST && E > 0)
        others = s.in.extras + static_cast<int64_t>(memory.gaussians[first + hit]) * s.num_extras;
      S4D_UNROLL
      for (int half = 0; half < 2; ++half) {
        float h = 0.0f, weight = 0.0f;
        if (halves >> half & 1u) {
          PixelGrads<E>& p = pixels[half];
          Blend b = blend(stamp, x - stamp.u, y + static_cast<float>(half * HALF) - stamp.v, p.T);
          if constexpr (FIRST) h = p.step(b, p.seen(stamp, memory.batch.extras[first + hit], others, s.num_extras));
          weight = b.weight;
          p.T = b.after;
        }
        if constexpr (FIRST) reinterpret_cast<float*>(memory.h[half][hit])[lane_index()] = h;
        reinterpret_cast<float*>(memory.weight[half][hit])[lane_index()] = weight;
      }
    }
  }

  // A lane is one half of one entry.
  S4D_DEVICE void entries_of(int first, int count) {
    int hit = lane_index() % HITS, half = lane_index() / HITS;
    EntrySums<E, FIRST, ABS> sums;
    bool mine = hit < count;
    float* slot = nullptr;
    if (mine) {
      const Stamp stamp = memory.batch.stamps[first + hit];
      float left = static_cast<float>(place.x - lane_index() % TILE) + 0.5f;
      float top = static_cast<float>(place.y - lane_index() / TILE + half * HALF) + 0.5f;
      sums.add_half(memory, stamp, half, hit, left - stamp.u, top - stamp.v);
      slot = task.slots + static_cast<int64_t>(memory.slots[first + hit]) * task.stride;
      if constexpr (!FIRST) slot += task.stride - s.num_extras + task.first_extra;
    }
    int num_extras = s.num_extras - task.first_extra < E ? s.num_extras - task.first_extra : E;
    sums.write(slot, half, sums.FIXED + num_extras, mine);
  }

  // Slots of entries behind an opaque tile.
  S4D_DEVICE void clear_slots(const TileLists& lists, uint32_t start) {
    for (uint32_t k = start + lane_index(); k < place.end; k += WARP) {
      float* slot = task.slots + static_cast<int64_t>(lists.sorted[k].y) * task.stride;
      for (int j = 0; j < task.stride; ++j) slot[j] = 0.0f;
    }
  }

  S4D_DEVICE void run(const TileLists& lists) {
    Fetched<E> next;
    next.load(s, lists, place.begin + lane_index(), place.end, task.first_extra);
    unsigned live = live_halves(pixels[0].T, pixels[1].T);
    uint32_t start = place.begin;
    for (; start < place.end && live; start += WARP) {
      memory.batch.store(next);
      memory.slots[lane_index()] = next.slot;
      if constexpr (E > 0) memory.gaussians[lane_index()] = static_cast<uint32_t>(next.gaussian);
      next.load(s, lists, start + WARP + lane_index(), place.end, task.first_extra);
      __syncwarp();
      int size = static_cast<int>(place.end - start < WARP ? place.end - start : WARP);
      for (int first = 0; first < size; first += HITS) {
        int count = size - first < HITS ? size - first : HITS;
        pixels_of(first, count, live);
        __syncwarp();
        entries_of(first, count);
        __syncwarp();
      }
      live = live_halves(pixels[0].T, pixels[1].T);
    }
    if constexpr (FIRST) clear_slots(lists, start);
  }
};

template <int E, bool FIRST, bool ABS>
__global__ void __launch_bounds__(WARPS* WARP) raster_tiles_vjp(Scene s, TileLists lists, VjpTask task) {
  struct Shared {
    WarpMemory<E> warps[WARPS];
  };
  S4D_SHARED(Shared, shared);
  int64_t tile = static_cast<int64_t>(blockIdx.x) * WARPS + warp_index();
  if (tile >= s.num_tiles) return;  // the whole warp; warps have nothing in common
  TileVjp<E, FIRST, ABS>(s, task, lists, shared.warps[warp_index()], tile).run(lists);
}

struct VjpLaunch {
  const Scene& scene;
  TileLists lists;
  const VjpTask& task;
  bool absgrads;
  Stream stream;

  template <int E>
  void run() const {
    auto kernel = absgrads ? raster_tiles_vjp<E, true, true> : raster_tiles_vjp<E, true, false>;
    if constexpr (E > 0)
      if (task.first_extra > 0) kernel = raster_tiles_vjp<E, false, false>;
    launch(kernel, ceil_div(scene.num_tiles, WARPS), WARPS * WARP, stream, scene, lists, task);
  }
};

}  // namespace

void raster_vjp(const Scene& scene, const Rows& rows, const Entries& entries, const s4d::RasterImages& images,
                const s4d::RasterImages& v_images, float* slots, bool absgrads, Stream stream) {
  TileLists lists = {entries.ranges, entries.sorted_keys, entries.sorted, rows.stamps};
  VjpTask task = {images, v_images, slots, slot_stride(scene.num_extras, absgrads), 0};
  do {
    for_extras(scene.num_extras - task.first_extra, VjpLaunch{scene, lists, task, absgrads, stream});
    task.first_extra += EXTRAS_AT_ONCE;
  } while (task.first_extra < scene.num_extras);
}

}  // namespace s4d_cuda
