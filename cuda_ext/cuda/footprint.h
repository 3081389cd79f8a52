// Which tiles, and which halves of them, the ellipse {alpha >= 1 / 255} of a splat may touch. As cpu/bin.cpp, one
// thread a splat.
#pragma once

#include "scene.h"

namespace s4d_cuda {

constexpr float MARGIN = 1e-3f;  // pixels; what float32 may lose

struct Footprint {
  float u, v, radius_y;
  float slope;  // minus the drift of the chord's middle per row
  float tip;    // row of the rightmost point, from the centre; of the leftmost, negated
  float half2;  // half the chord through the centre, squared
  float inv_radius2;
  int begin, end;  // bands of HALF rows
};

struct Span {  // columns of tiles
  int first, last;
  S4D_DEVICE bool holds(int x) const { return x >= first && x <= last; }
  S4D_DEVICE int size() const { return last < first ? 0 : last - first + 1; }
};

S4D_DEVICE Footprint footprint(const Stamp& s, float radius_x, float radius_y, int height) {
  Footprint f;
  f.u = s.u;
  f.v = s.v;
  f.radius_y = radius_y;
  f.slope = s.b / (2.0f * s.a);
  f.tip = -s.b / (2.0f * s.c) * radius_x;
  f.half2 = (s.log2_opacity - LOG2_ALPHA_MIN) / -s.a;
  f.inv_radius2 = 1.0f / max(radius_y * radius_y, 1e-20f);
  int bands = (height + HALF - 1) / HALF;
  float top = (s.v - radius_y - (HALF - 0.5f) - MARGIN) * (1.0f / HALF);
  float bottom = (s.v + radius_y - 0.5f + MARGIN) * (1.0f / HALF);
  bool inside = bottom >= 0.0f && top <= static_cast<float>(bands);
  f.begin = top > 0.0f ? static_cast<int>(::ceilf(min(top, static_cast<float>(bands)))) : 0;
  f.end = bottom < static_cast<float>(bands - 1) ? static_cast<int>(bottom) + 1 : bands;
  if (!inside) f.end = f.begin;
  return f;
}

S4D_DEVICE Span band_span(const Footprint& f, int band, int tiles_x) {
  if (band < f.begin || band >= f.end) return {0, -1};
  float top = static_cast<float>(HALF * band) + 0.5f - f.v, bottom = top + (HALF - 1.0f);
  float low = max(top, -f.radius_y), high = min(bottom, f.radius_y);
  float right = min(max(f.tip, low), high), left = min(max(-f.tip, low), high);
  float chord_right = ::sqrtf(max(fma(-right * right, f.inv_radius2, 1.0f), 0.0f) * f.half2);
  float chord_left = ::sqrtf(max(fma(-left * left, f.inv_radius2, 1.0f), 0.0f) * f.half2);
  float x_right = fma(-f.slope, right, chord_right) + (f.u + MARGIN);
  float x_left = fma(-f.slope, left, -chord_left) + (f.u - MARGIN);
  // Column j holds pixel centres 8 j + 0.5 .. 8 j + 7.5.
  float first = max(::ceilf((x_left - (TILE - 0.5f)) * (1.0f / TILE)), 0.0f);
  float last = min(::floorf((x_right - 0.5f) * (1.0f / TILE)), static_cast<float>(tiles_x - 1));
  if (high + MARGIN < low || !(first <= last)) return {0, -1};
  return {static_cast<int>(first), static_cast<int>(last)};
}

// One row of tiles.
struct RowSpans {
  Span upper, lower;

  S4D_DEVICE int first() const {
    return !upper.size() || (lower.size() && lower.first < upper.first) ? lower.first : upper.first;
  }
  S4D_DEVICE int last() const {
    return !upper.size() || (lower.size() && lower.last > upper.last) ? lower.last : upper.last;
  }
  S4D_DEVICE uint32_t halves(int x) const { return (upper.holds(x) ? 1u : 0u) | (lower.holds(x) ? 2u : 0u); }
  S4D_DEVICE int size() const {
    int begin = upper.first > lower.first ? upper.first : lower.first,
        end = upper.last < lower.last ? upper.last : lower.last;
    return upper.size() + lower.size() - (upper.size() && lower.size() ? Span{begin, end}.size() : 0);
  }
};

S4D_DEVICE RowSpans row_spans(const Footprint& f, int tile_y, int tiles_x) {
  return {band_span(f, 2 * tile_y, tiles_x), band_span(f, 2 * tile_y + 1, tiles_x)};
}

S4D_DEVICE int first_tile_row(const Footprint& f) { return f.begin / 2; }
S4D_DEVICE int end_tile_row(const Footprint& f) { return f.begin < f.end ? (f.end + 1) / 2 : f.begin / 2; }

}  // namespace s4d_cuda
