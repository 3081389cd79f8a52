// The views of one call that are in work together: their splats, depth orders and tile lists.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../ops.h"
#include "scratch.h"
#include "stages.h"

namespace s4d {

template <class T>
T* offset(T* base, int64_t elements) {
  return base ? base + elements : nullptr;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void clear(float* data, int64_t size);  // does nothing for null

// Zeroes rows [begin, end) of the gradients of one set.
void clear_rows(const RasterShape& shape, const RasterGrads& rows, int64_t begin, int64_t end);

struct OwnedList : TileEntryList {
  Scratch memory;
};

// Splats of one view that one task bins.
struct Part {
  int view;
  int64_t begin, end;  // in the view's depth order
  OwnedList list = {};
  uint32_t* cursors = nullptr;  // [tiles]: how many, then where to
};

// More than MAX_PAIRS.
struct TooManyPairs {};

struct StageClock;

// Views [begin, end), flat over sets and views. `prepare` reads the inputs; `raster` and `backward` read them again, so
// `bind` must say where they are now.
class ViewGroup {
 public:
  ViewGroup(const RasterShape& shape, const RasterOptions& options, const Stages& stages, int64_t begin, int64_t end);

  void bind(const RasterInputs& in, float* radii);
  void prepare(StageClock& clock);
  void raster(const RasterImages& images, StageClock& clock);
  void backward(const RasterImages& images, const RasterImages& v_images, const RasterGrads& out, StageClock& clock);

  size_t bytes() const;  // of what `prepare` leaves

 private:
  RasterImages images_of(const RasterImages& all, int64_t view) const;
  RasterGrads grads_of(const RasterGrads& all, int64_t set) const;
  int64_t num_views() const { return static_cast<int64_t>(views_.size()); }
  Splat* chunk_splats(int64_t view, int64_t chunk) const;
  int& chunk_count(int64_t view, int64_t chunk) { return counts_[view * num_chunks_ + chunk]; }
  uint32_t* tile_starts(int64_t view) const { return starts_.as<uint32_t>() + view * (num_tiles_ + 1); }
  // Of the splats of a view, by their place in splats_; one more element than there are rows.
  uint32_t* first_slots(int64_t view) const { return slots_.as<uint32_t>() + view * (shape_.num_gaussians + 1); }
  uint32_t* order(int64_t view) const { return order_.as<uint32_t>() + order_starts_[view]; }
  int64_t order_size(int64_t view) const { return order_starts_[view + 1] - order_starts_[view]; }

  void project();
  void sort();
  void bin();
  void scatter();
  void number_slots();
  void place_parts();
  template <class F>
  void for_tiles(const RasterImages& images, const RasterImages& v_images, float* slots, bool abs_sums, const F& stage);
  void chunk_backward(int64_t set, int64_t chunk, const float* slots, float* viewmat_sums, const RasterGrads& out);
  void add_viewmats(const float* sums, float* viewmats) const;

  RasterShape shape_;
  RasterOptions options_;
  const Stages* stages_;
  int64_t begin_, num_chunks_, num_tiles_, num_entries_ = 0;
  std::vector<View> views_;
  std::vector<int> counts_;            // visible rows of a view and chunk
  std::vector<int64_t> order_starts_;  // where a view's depth order starts, and where the last one ends
  std::vector<Part> parts_;
  Scratch splats_, order_, cursors_, starts_, entries_;
  Scratch slots_;  // how many slots each splat has, then the first of them, and one past the last
};

}  // namespace s4d
