// Runs the stages: project -> depth sort -> bin -> raster, and back. Backward makes the splats and tile lists again
// instead of keeping them: the op then has no hidden state, its outputs have fixed shapes (so that it can be compiled),
// and nothing waits in memory between the two directions.
#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "depth_sort.h"
#include "scratch.h"
#include "stages.h"
#include "threads.h"

S4D_DECLARE_STAGES(s4d_base)
#ifdef S4D_X86
S4D_DECLARE_STAGES(s4d_avx2)
S4D_DECLARE_STAGES(s4d_avx512)
#endif

namespace s4d {
namespace {

constexpr int64_t CHUNK = 1024;             // rows a projection task
constexpr int64_t PART = 4096;              // splats a binning task
constexpr int64_t GROUP_ROWS = 2 << 20;     // rows in work at once: bounds memory when there are many views

#define S4D_STAGES(ns) {ns::project, ns::bin, ns::raster, ns::raster_vjp, ns::project_vjp}
#ifdef S4D_X86
constexpr Stages STAGES[] = {S4D_STAGES(s4d_base), S4D_STAGES(s4d_avx2), S4D_STAGES(s4d_avx512)};
#else
constexpr Stages STAGES[] = {S4D_STAGES(s4d_base)};
#endif

const Stages* stages_of(int instruction_set) {
  int best = best_instruction_set();
  if (instruction_set > best) return nullptr;
  return &STAGES[instruction_set < 0 ? best : instruction_set];
}

template <class T>
T* offset(T* base, int64_t elements) {
  return base ? base + elements : nullptr;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct OwnedList : TileEntryList {
  Scratch memory;
};

// Splats of one view that one task bins.
struct Part {
  int view;
  int64_t begin, end;  // in the view's depth order
  int64_t first_slot = 0;
  OwnedList list = {};
  uint32_t* cursors = nullptr;  // [tiles]: how many, then where to
};

void clear(float* data, int64_t size) {
  if (data) std::memset(data, 0, size * sizeof(float));
}

// Rows [begin, end) of the gradients of one set.
void clear_rows(const RasterShape& shape, const RasterGrads& rows, int64_t begin, int64_t end) {
  int64_t n = end - begin, bases = shape.num_bases * 3;
  clear(offset(rows.means, begin * 3), n * 3);
  clear(offset(rows.quats, begin * 4), n * 4);
  clear(offset(rows.scales, begin * 3), n * 3);
  clear(offset(rows.opacities, begin), n);
  clear(offset(rows.sh, begin * bases), n * bases);
  clear(offset(rows.extras, begin * shape.num_extras), n * shape.num_extras);
}

// The views [begin, end), flat over sets and views, in work together.
class ViewGroup {
 public:
  ViewGroup(const RasterShape& shape, const RasterOptions& options, const RasterInputs& in, const Stages& stages,
            int64_t begin, int64_t end)
      : shape_(shape), threads_(options.num_threads), stages_(stages), begin_(begin) {
    for (int64_t i = begin; i < end; ++i) views_.push_back(make_view(options, in, i));
    num_chunks_ = ceil_div(shape.num_gaussians, CHUNK);
    num_tiles_ = ceil_div(shape.width, TILE) * ceil_div(shape.height, TILE);
  }

  void prepare() {
    project();
    sort();
    bin();
    scatter();
  }

  void raster(const RasterImages& images) {
    for_tiles(images, {}, nullptr, stages_.raster);
  }

  void backward(const RasterImages& images, const RasterImages& v_images, const RasterGrads& out);

 private:
  View make_view(const RasterOptions& options, const RasterInputs& in, int64_t index) const;
  RasterImages images_of(const RasterImages& all, int64_t view) const;
  RasterGrads grads_of(const RasterGrads& all, int64_t set) const;
  Splat* chunk_splats(int64_t view, int64_t chunk) const {
    return splats_.as<Splat>() + view * shape_.num_gaussians + chunk * CHUNK;
  }
  int& chunk_count(int64_t view, int64_t chunk) { return counts_[view * num_chunks_ + chunk]; }
  uint32_t* tile_starts(int64_t view) const { return starts_.as<uint32_t>() + view * (num_tiles_ + 1); }

  void project();
  void sort();
  void bin();
  void scatter();
  template <class F>
  void for_tiles(const RasterImages& images, const RasterImages& v_images, float* slots, const F& stage);
  void chunk_backward(int64_t set, int64_t chunk, const float* slots, float* viewmat_sums, const RasterGrads& out);

  const RasterShape& shape_;
  int threads_;
  const Stages& stages_;
  int64_t begin_, num_chunks_, num_tiles_, num_entries_ = 0;
  std::vector<View> views_;
  std::vector<int> counts_;                      // visible rows of a view and chunk
  std::vector<int64_t> orders_, order_sizes_;    // where a view's depth order starts, how long it is
  std::vector<Part> parts_;
  Scratch splats_, keys_, order_, cursors_, starts_, entries_;
};

View ViewGroup::make_view(const RasterOptions& options, const RasterInputs& in, int64_t index) const {
  int64_t set = index / shape_.num_views, rows = set * shape_.num_gaussians;
  View v;
  v.means = in.means + rows * 3;
  v.quats = in.quats + rows * 4;
  v.scales = in.scales + rows * 3;
  v.opacities = in.opacities + rows;
  v.sh = in.sh + rows * shape_.num_bases * 3;
  v.extras = offset(in.extras, rows * shape_.num_extras);
  v.ids = in.ids + rows;
  v.viewmat = in.viewmats + index * 16;
  v.K = in.Ks + index * 9;
  v.background = offset(in.background, index * 3);
  v.num_gaussians = static_cast<int>(shape_.num_gaussians);
  v.num_bases = static_cast<int>(shape_.num_bases);
  v.num_extras = static_cast<int>(shape_.num_extras);
  v.width = static_cast<int>(shape_.width);
  v.height = static_cast<int>(shape_.height);
  v.tiles_x = static_cast<int>(ceil_div(shape_.width, TILE));
  v.tiles_y = static_cast<int>(ceil_div(shape_.height, TILE));
  v.eps2d = options.eps2d;
  v.near = options.near;
  v.far = options.far;
  return v;
}

RasterImages ViewGroup::images_of(const RasterImages& all, int64_t view) const {
  int64_t pixels = (begin_ + view) * shape_.width * shape_.height;
  return {offset(all.rgb, pixels * 3), offset(all.depth, pixels), offset(all.alpha, pixels),
          offset(all.extras, pixels * shape_.num_extras)};
}

RasterGrads ViewGroup::grads_of(const RasterGrads& all, int64_t set) const {
  int64_t rows = set * shape_.num_gaussians;
  return {offset(all.means, rows * 3),     offset(all.quats, rows * 4),
          offset(all.scales, rows * 3),    offset(all.opacities, rows),
          offset(all.sh, rows * shape_.num_bases * 3), offset(all.extras, rows * shape_.num_extras), nullptr};
}

void ViewGroup::project() {
  int64_t num_views = static_cast<int64_t>(views_.size());
  splats_ = Scratch(num_views * shape_.num_gaussians * sizeof(Splat));
  counts_.assign(num_views * num_chunks_, 0);
  parallel_for(num_views * num_chunks_, threads_, [&](int64_t i) {
    int64_t view = i / num_chunks_, chunk = i % num_chunks_;
    int64_t end = std::min((chunk + 1) * CHUNK, shape_.num_gaussians);
    counts_[i] = stages_.project(views_[view], static_cast<int>(chunk * CHUNK), static_cast<int>(end),
                                 chunk_splats(view, chunk));
  });
}

void ViewGroup::sort() {
  int64_t num_views = static_cast<int64_t>(views_.size()), total = 0;
  for (int64_t view = 0; view < num_views; ++view) {
    int64_t size = 0;
    for (int64_t chunk = 0; chunk < num_chunks_; ++chunk) size += chunk_count(view, chunk);
    orders_.push_back(total);
    order_sizes_.push_back(size);
    total += size;
  }
  keys_ = Scratch(2 * total * sizeof(DepthKey));
  order_ = Scratch(total * sizeof(uint32_t));
  parallel_for(num_views, threads_, [&](int64_t view) {
    DepthKey *keys = keys_.as<DepthKey>() + 2 * orders_[view], *other = keys + order_sizes_[view], *next = keys;
    const Splat* splats = chunk_splats(view, 0);
    for (int64_t chunk = 0; chunk < num_chunks_; ++chunk) {
      uint32_t first = static_cast<uint32_t>(chunk * CHUNK);
      for (int i = 0; i < chunk_count(view, chunk); ++i) *next++ = {depth_bits(splats[first + i].depth), first + i};
    }
    DepthKey* sorted = depth_sort(keys, other, order_sizes_[view]);
    uint32_t* order = order_.as<uint32_t>() + orders_[view];
    for (int64_t i = 0; i < order_sizes_[view]; ++i) order[i] = sorted[i].index;
  });
}

void ViewGroup::bin() {
  for (size_t view = 0; view < views_.size(); ++view)
    for (int64_t begin = 0; begin < order_sizes_[view]; begin += PART)
      parts_.push_back(Part{static_cast<int>(view), begin, std::min(begin + PART, order_sizes_[view])});
  cursors_ = Scratch(parts_.size() * num_tiles_ * sizeof(uint32_t));
  std::vector<char> failed(parts_.size(), 0);
  parallel_for(static_cast<int64_t>(parts_.size()), threads_, [&](int64_t i) {
    Part& part = parts_[i];
    const uint32_t* order = order_.as<uint32_t>() + orders_[part.view];
    failed[i] = !stages_.bin(views_[part.view], chunk_splats(part.view, 0), order + part.begin, part.end - part.begin,
                             part.list);
    part.cursors = cursors_.as<uint32_t>() + i * num_tiles_;
    std::memset(part.cursors, 0, num_tiles_ * sizeof(uint32_t));
    for (int64_t k = 0; k < part.list.size; ++k) ++part.cursors[part.list.data[k].tile];
  });
  for (char f : failed)
    if (f) throw std::bad_alloc();
}

// Counting sort of the parts' entries into tiles; parts are in depth order, so each tile's list is too.
void ViewGroup::scatter() {
  int64_t num_views = static_cast<int64_t>(views_.size());
  starts_ = Scratch(num_views * (num_tiles_ + 1) * sizeof(uint32_t));
  num_entries_ = 0;
  size_t first = 0;
  for (int64_t view = 0; view < num_views; ++view) {
    size_t last = first;
    uint32_t* starts = tile_starts(view);
    uint32_t start = static_cast<uint32_t>(num_entries_);
    for (; last < parts_.size() && parts_[last].view == view; ++last) {
      parts_[last].first_slot = num_entries_;
      num_entries_ += parts_[last].list.size;
    }
    for (int64_t tile = 0; tile < num_tiles_; ++tile) {
      starts[tile] = start;
      for (size_t p = first; p < last; ++p) {
        uint32_t size = parts_[p].cursors[tile];
        parts_[p].cursors[tile] = start;
        start += size;
      }
    }
    starts[num_tiles_] = start;
    first = last;
  }
  entries_ = Scratch(num_entries_ * sizeof(Entry));
  parallel_for(static_cast<int64_t>(parts_.size()), threads_, [&](int64_t i) {
    Part& part = parts_[i];
    Splat* splats = chunk_splats(part.view, 0);
    const uint32_t* order = order_.as<uint32_t>() + orders_[part.view];
    for (int64_t k = part.begin; k < part.end; ++k) splats[order[k]].first_slot += static_cast<uint32_t>(part.first_slot);
    for (int64_t k = 0; k < part.list.size; ++k) {
      const TileEntry& e = part.list.data[k];
      entries_.as<Entry>()[part.cursors[e.tile]++] = {e.splat, static_cast<uint32_t>(part.first_slot + k), e.blocks};
    }
  });
}

template <class F>
void ViewGroup::for_tiles(const RasterImages& images, const RasterImages& v_images, float* slots, const F& stage) {
  int64_t num_tasks = static_cast<int64_t>(views_.size()) * num_tiles_;
  int64_t floats = raster_scratch(shape_.num_extras);
  parallel_for(num_tasks, threads_, [&](int64_t i) {
    int64_t view = i / num_tiles_, tile = i % num_tiles_;
    const uint32_t* starts = tile_starts(view);
    Scratch scratch(floats * sizeof(float));
    stage(TileTask{&views_[view], chunk_splats(view, 0), entries_.as<Entry>() + starts[tile],
                   starts[tile + 1] - starts[tile], static_cast<int>(tile % views_[view].tiles_x),
                   static_cast<int>(tile / views_[view].tiles_x), images_of(images, view), images_of(v_images, view),
                   slots, scratch.as<float>()});
  });
}

void ViewGroup::chunk_backward(int64_t set, int64_t chunk, const float* slots, float* viewmat_sums,
                               const RasterGrads& out) {
  int64_t first = std::max(set * shape_.num_views - begin_, int64_t{0});
  int64_t last = std::min((set + 1) * shape_.num_views - begin_, static_cast<int64_t>(views_.size()));
  RasterGrads rows = grads_of(out, set);
  if (begin_ + first == set * shape_.num_views)
    clear_rows(shape_, rows, chunk * CHUNK, std::min((chunk + 1) * CHUNK, shape_.num_gaussians));
  for (int64_t view = first; view < last; ++view) {
    float* sums = offset(viewmat_sums, (view * num_chunks_ + chunk) * 12);
    stages_.project_vjp(views_[view], chunk_splats(view, chunk), chunk_count(view, chunk), slots, {rows, sums});
  }
}

void ViewGroup::backward(const RasterImages& images, const RasterImages& v_images, const RasterGrads& out) {
  int64_t num_views = static_cast<int64_t>(views_.size());
  Scratch slots(num_entries_ * (FIXED_SUMS + shape_.num_extras) * sizeof(float));
  for_tiles(images, v_images, slots.as<float>(), stages_.raster_vjp);
  Scratch viewmat_sums(out.viewmats ? num_views * num_chunks_ * 12 * sizeof(float) : 0);
  clear(viewmat_sums.as<float>(), num_views * num_chunks_ * 12);
  int64_t first_set = begin_ / shape_.num_views, num_sets = (begin_ + num_views - 1) / shape_.num_views - first_set + 1;
  parallel_for(num_sets * num_chunks_, threads_, [&](int64_t i) {
    chunk_backward(first_set + i / num_chunks_, i % num_chunks_, slots.as<float>(), viewmat_sums.as<float>(), out);
  });
  if (!out.viewmats) return;
  for (int64_t view = 0; view < num_views; ++view) {
    float* v = out.viewmats + (begin_ + view) * 16;
    const float* sums = viewmat_sums.as<float>() + view * num_chunks_ * 12;
    for (int64_t chunk = 0; chunk < num_chunks_; ++chunk, sums += 12)
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) v[4 * i + j] += sums[3 * i + j];
        v[4 * i + 3] += sums[9 + i];
      }
  }
}

template <class F>
int for_groups(const RasterShape& shape, const RasterOptions& options, const RasterInputs& in, const F& run) {
  const Stages* stages = stages_of(options.instruction_set);
  if (!stages) return BAD_INSTRUCTION_SET;
  int64_t total = shape.num_sets * shape.num_views;
  int64_t step = std::max<int64_t>(1, GROUP_ROWS / std::max<int64_t>(shape.num_gaussians, 1));
  try {
    for (int64_t begin = 0; begin < total; begin += step) {
      ViewGroup group(shape, options, in, *stages, begin, std::min(begin + step, total));
      group.prepare();
      run(group);
    }
  } catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
  }
  return OK;
}

}  // namespace

bool reserve(TileEntryList& list, int64_t extra) {
  OwnedList& owned = static_cast<OwnedList&>(list);
  try {
    int64_t capacity = std::max({list.size + extra, 2 * list.capacity, 4 * PART});
    Scratch memory(capacity * sizeof(TileEntry));
    if (list.size) std::memcpy(memory.as<void>(), list.data, list.size * sizeof(TileEntry));
    owned.memory = std::move(memory);
    list.data = owned.memory.as<TileEntry>();
    list.capacity = capacity;
  } catch (const std::bad_alloc&) {
    return false;
  }
  return true;
}

int best_instruction_set() {
#ifdef S4D_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

int rasterize(const RasterShape& shape, const RasterOptions& options, const RasterInputs& in, const RasterImages& out) {
  return for_groups(shape, options, in, [&](ViewGroup& group) { group.raster(out); });
}

int rasterize_backward(const RasterShape& shape, const RasterOptions& options, const RasterInputs& in,
                       const RasterImages& images, const RasterImages& v_images, const RasterGrads& out) {
  if (shape.num_views == 0 || shape.num_gaussians == 0)
    clear_rows(shape, out, 0, shape.num_sets * shape.num_gaussians);
  clear(out.viewmats, shape.num_sets * shape.num_views * 16);
  return for_groups(shape, options, in, [&](ViewGroup& group) { group.backward(images, v_images, out); });
}

}  // namespace s4d
