// Which tiles, and which 4x4-pixel blocks of them, the ellipse {alpha >= 1 / 255} of a splat may touch.
#include "../math/splat.h"
#include "simd.h"
#include "stages.h"

namespace S4D_NS {
namespace {

using s4d::BLOCK;
using s4d::Splat;
using s4d::View;

constexpr float MARGIN = 1e-3f;  // pixels; what float32 may lose

// For the WIDTH bands of 4 rows from `band` on: the first and last column of blocks inside the ellipse.
void band_columns(const Splat& s, int band, float last_column, float* first_out, float* last_out) {
  alignas(64) float lane[WIDTH];
  for (int i = 0; i < WIDTH; ++i) lane[i] = static_cast<float>(BLOCK * i);
  Lanes top = Lanes::load(lane) + Lanes(BLOCK * band + 0.5f - s.v), bottom = top + Lanes(BLOCK - 1.0f);
  Lanes radius_y(s.radius_y), zero(0.0f);
  Lanes low = max(top, -radius_y), high = min(bottom, radius_y);
  float slope = s.b / (2.0f * s.a);                       // minus the drift of the chord's middle per row
  float tip = -s.b / (2.0f * s.c) * s.radius_x;           // row of the rightmost point; of the leftmost, negated
  float half2 = (s.log2_opacity - __builtin_log2f(ALPHA_MIN)) / -s.a;  // half the chord through the centre, squared
  float inv_radius2 = 1.0f / max(s.radius_y * s.radius_y, 1e-20f);
  Lanes right = min(max(Lanes(tip), low), high), left = min(max(Lanes(-tip), low), high);
  Lanes chord_right = sqrt(max(fnma(right * right, Lanes(inv_radius2), Lanes(1.0f)), zero) * Lanes(half2));
  Lanes chord_left = sqrt(max(fnma(left * left, Lanes(inv_radius2), Lanes(1.0f)), zero) * Lanes(half2));
  Lanes x_right = fnma(Lanes(slope), right, chord_right) + Lanes(s.u + MARGIN);
  Lanes x_left = fnma(Lanes(slope), left, -chord_left) + Lanes(s.u - MARGIN);
  // Column j holds pixel centres 4 j + 0.5 .. 4 j + 3.5.
  Lanes quarter(1.0f / BLOCK);
  Lanes first = -floor((Lanes(BLOCK - 0.5f) - x_left) * quarter);
  Lanes last = floor((x_right - Lanes(0.5f)) * quarter);
  Mask empty = high + Lanes(MARGIN) < low;
  max(first, zero).store(first_out);
  select(empty, Lanes(-1.0f), min(last, Lanes(last_column))).store(last_out);
}

// Bits of the four block columns of a tile that [first, last] covers, both counted from the tile's left.
inline unsigned column_bits(int first, int last) {
  first = first < 0 ? 0 : (first > 4 ? 4 : first);
  last = last > 3 ? 3 : (last < -1 ? -1 : last);
  return (0xFu << first) & (0xFu >> (3 - last));
}

// The tiles of one row of tiles; first[], last[] hold its four bands.
bool bin_row(const View& view, uint32_t splat, int tile_y, const int* first, const int* last,
             s4d::TileEntryList& list) {
  int low = first[0], high = last[0];
  for (int r = 1; r < 4; ++r) {
    bool empty = last[r] < first[r];
    low = !empty && first[r] < low ? first[r] : low;
    high = last[r] > high ? last[r] : high;
  }
  if (high < 0 || low > high) return true;
  low >>= 2;
  high >>= 2;
  if (list.size + (high - low + 1) > list.capacity && !s4d::reserve(list, high - low + 1)) return false;
  for (int x = low; x <= high; ++x) {
    unsigned blocks = 0;
    for (int r = 0; r < 4; ++r) blocks |= column_bits(first[r] - 4 * x, last[r] - 4 * x) << (4 * r);
    if (!blocks) continue;
    uint32_t tile = static_cast<uint32_t>(tile_y * view.tiles_x + x);
    list.data[list.size++] = {splat, tile, static_cast<uint16_t>(blocks)};
  }
  return true;
}

bool bin_splat(const View& view, const Splat& s, uint32_t index, s4d::TileEntryList& list) {
  constexpr int NONE = 1 << 20;
  int bands = (view.height + BLOCK - 1) / BLOCK, columns = (view.width + BLOCK - 1) / BLOCK;
  float top = (s.v - s.radius_y - (BLOCK - 0.5f) - MARGIN) * (1.0f / BLOCK);
  float bottom = (s.v + s.radius_y - 0.5f + MARGIN) * (1.0f / BLOCK);
  if (!(bottom >= 0.0f && top <= bands)) return true;
  int begin = top > 0.0f ? static_cast<int>(__builtin_ceilf(top)) : 0;
  int end = bottom < bands - 1 ? static_cast<int>(bottom) + 1 : bands;
  alignas(64) float first_f[WIDTH], last_f[WIDTH];
  int first[4], last[4], row = begin >> 2;
  for (int r = 0; r < 4; ++r) first[r] = NONE, last[r] = -1;
  for (int band = begin; band < end; ++band) {
    int lane = (band - begin) % WIDTH;
    if (lane == 0) band_columns(s, band, columns - 1.0f, first_f, last_f);
    if (band >> 2 != row) {
      if (!bin_row(view, index, row, first, last, list)) return false;
      for (int r = 0; r < 4; ++r) first[r] = NONE, last[r] = -1;
      row = band >> 2;
    }
    bool empty = !(first_f[lane] <= last_f[lane]);
    first[band & 3] = empty ? NONE : static_cast<int>(first_f[lane]);
    last[band & 3] = empty ? -1 : static_cast<int>(last_f[lane]);
  }
  return begin >= end || bin_row(view, index, row, first, last, list);
}

}  // namespace

bool bin(const s4d::View& view, const s4d::Splat* splats, const uint32_t* order, int64_t count, uint32_t* num_slots,
         s4d::TileEntryList& list) {
  for (int64_t i = 0; i < count; ++i) {
    if (i + 8 < count) __builtin_prefetch(splats + order[i + 8]);
    const Splat& s = splats[order[i]];
    int64_t before = list.size;
    if (s.log2_opacity >= -8.0f && !bin_splat(view, s, order[i], list)) return false;
    num_slots[order[i]] = static_cast<uint32_t>(list.size - before);
  }
  return true;
}

}  // namespace S4D_NS
