// Rows in depth order to tile lists: every row emits its tiles, then one stable sort by tile keeps the depth order. A
// row of many tiles is emitted by its whole warp.
#include "footprint.h"
#include "scene.h"

namespace s4d_cuda {
namespace {

constexpr int THREADS = 128;
constexpr uint32_t ALONE = 16;  // tiles that one lane emits alone

__global__ void __launch_bounds__(THREADS) gather_counts(Rows rows, int64_t num_rows) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i < num_rows) rows.ends[i] = rows.counts[rows.order[i]];
}

S4D_DEVICE void emit_row(const RowSpans& spans, uint32_t first_tile, uint32_t row, uint32_t& slot,
                         const Entries& entries) {
  for (int x = spans.first(); x <= spans.last(); ++x) {
    uint32_t halves = spans.halves(x);
    if (!halves) continue;
    entries.keys[slot] = (first_tile + static_cast<uint32_t>(x)) << HALF_BITS | halves;
    entries.values[slot] = make_uint2(row, slot);
    ++slot;
  }
}

// First tile of a row of tiles in the view of `row`.
S4D_DEVICE uint32_t first_tile(const Scene& s, uint32_t row, int tile_y) {
  uint32_t view = row / static_cast<uint32_t>(s.num_gaussians);
  return (view * static_cast<uint32_t>(s.tiles_y) + static_cast<uint32_t>(tile_y)) * static_cast<uint32_t>(s.tiles_x);
}

S4D_DEVICE Footprint footprint_of(const Scene& s, const Rows& rows, uint32_t row) {
  float2 radii = rows.radii[row];
  return footprint(rows.stamps[row], radii.x, radii.y, s.height);
}

S4D_DEVICE void emit_together(const Scene& s, const Rows& rows, const Entries& entries, uint32_t row, uint32_t slot) {
  Footprint f = footprint_of(s, rows, row);
  for (int top = first_tile_row(f); top < end_tile_row(f); top += WARP) {
    int y = top + lane_index();
    RowSpans spans = row_spans(f, y, s.tiles_x);  // empty below the last
    uint32_t size = static_cast<uint32_t>(spans.size()), before = size;
    for (int step = 1; step < WARP; step *= 2) {
      uint32_t other = __shfl_up_sync(FULL_WARP, before, step);
      before += lane_index() >= step ? other : 0u;
    }
    uint32_t total = __shfl_sync(FULL_WARP, before, WARP - 1), mine = slot + before - size;
    if (size) emit_row(spans, first_tile(s, row, y), row, mine, entries);
    slot += total;
  }
}

__global__ void __launch_bounds__(THREADS) emit_entries(Scene s, Rows rows, Entries entries) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  uint32_t row = 0, count = 0, slot = 0;
  if (i < s.num_rows) {
    row = rows.order[i];
    count = rows.counts[row];
    slot = static_cast<uint32_t>(rows.ends[i]) - count;
  }
  if (count) rows.first[row] = slot;
  if (count && count <= ALONE) {
    Footprint f = footprint_of(s, rows, row);
    uint32_t next = slot;
    for (int y = first_tile_row(f); y < end_tile_row(f); ++y)
      emit_row(row_spans(f, y, s.tiles_x), first_tile(s, row, y), row, next, entries);
  }
  for (unsigned large = __ballot_sync(FULL_WARP, count > ALONE); large; large &= large - 1) {
    int source = __ffs(static_cast<int>(large)) - 1;
    uint32_t its_row = __shfl_sync(FULL_WARP, row, source), its_slot = __shfl_sync(FULL_WARP, slot, source);
    emit_together(s, rows, entries, its_row, its_slot);
  }
}

__global__ void __launch_bounds__(THREADS) mark_ranges(Entries entries, int64_t count) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i >= count) return;
  uint32_t tile = entries.sorted_keys[i] >> HALF_BITS;
  if (i == 0 || entries.sorted_keys[i - 1] >> HALF_BITS != tile) entries.ranges[tile].x = static_cast<uint32_t>(i);
  if (i + 1 == count || entries.sorted_keys[i + 1] >> HALF_BITS != tile)
    entries.ranges[tile].y = static_cast<uint32_t>(i + 1);
}

}  // namespace

void count_in_order(const Scene& s, const Rows& rows, Stream stream) {
  launch(gather_counts, ceil_div(s.num_rows, THREADS), THREADS, stream, rows, s.num_rows);
}

void emit(const Scene& s, const Rows& rows, const Entries& entries, Stream stream) {
  launch(emit_entries, ceil_div(s.num_rows, THREADS), THREADS, stream, s, rows, entries);
}

void find_ranges(const Scene& s, const Entries& entries, int64_t num_entries, Stream stream) {
  fill_zero(entries.ranges, s.num_tiles * sizeof(uint2), stream);
  launch(mark_ranges, ceil_div(num_entries, THREADS), THREADS, stream, entries, num_entries);
}

}  // namespace s4d_cuda
