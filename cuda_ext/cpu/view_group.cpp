#include "view_group.h"

#include <atomic>
#include <cstring>
#include <new>
#include <utility>

#include "depth_sort.h"
#include "stage_clock.h"
#include "threads.h"

namespace s4d {
namespace {

constexpr int64_t CHUNK = 1024;  // rows a projection task
constexpr int64_t PART = 4096;   // splats a binning task

}  // namespace

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

ViewGroup::ViewGroup(const RasterShape& shape, const RasterOptions& options, const Stages& stages, int64_t begin,
                     int64_t end)
    : shape_(shape), options_(options), stages_(&stages), begin_(begin), views_(end - begin) {
  num_chunks_ = ceil_div(shape.num_gaussians, CHUNK);
  num_tiles_ = ceil_div(shape.width, TILE) * ceil_div(shape.height, TILE);
}

void ViewGroup::bind(const RasterInputs& in, float* radii) {
  for (int64_t i = 0; i < num_views(); ++i) {
    int64_t view = begin_ + i, rows = view / shape_.num_views * shape_.num_gaussians;
    View& v = views_[i];
    v.means = in.means + rows * 3;
    v.quats = in.quats + rows * 4;
    v.scales = in.scales + rows * 3;
    v.opacities = in.opacities + rows;
    v.sh = in.sh + rows * shape_.num_bases * 3;
    v.extras = offset(in.extras, rows * shape_.num_extras);
    v.ids = in.ids + rows;
    v.viewmat = in.viewmats + view * 16;
    v.K = in.Ks + view * 9;
    v.background = offset(in.background, view * 3);
    v.radii = offset(radii, view * shape_.num_gaussians * 2);
    v.num_gaussians = static_cast<int>(shape_.num_gaussians);
    v.num_bases = static_cast<int>(shape_.num_bases);
    v.num_extras = static_cast<int>(shape_.num_extras);
    v.width = static_cast<int>(shape_.width);
    v.height = static_cast<int>(shape_.height);
    v.tiles_x = static_cast<int>(ceil_div(shape_.width, TILE));
    v.tiles_y = static_cast<int>(ceil_div(shape_.height, TILE));
    v.eps2d = options_.eps2d;
    v.near = options_.near;
    v.far = options_.far;
    v.antialiased = options_.antialiased != 0;
  }
}

void ViewGroup::prepare(StageClock& clock) {
  project();
  clock.tick(0);
  sort();
  clock.tick(1);
  bin();
  clock.tick(2);
  scatter();
  clock.tick(3);
}

void ViewGroup::raster(const RasterImages& images, StageClock& clock) {
  for_tiles(images, {}, nullptr, false, stages_->raster);
  clock.tick(4);
}

size_t ViewGroup::bytes() const { return splats_.size() + order_.size() + starts_.size() + entries_.size() + slots_.size(); }

Splat* ViewGroup::chunk_splats(int64_t view, int64_t chunk) const {
  return splats_.as<Splat>() + view * shape_.num_gaussians + chunk * CHUNK;
}

RasterImages ViewGroup::images_of(const RasterImages& all, int64_t view) const {
  int64_t pixels = (begin_ + view) * shape_.width * shape_.height;
  return {offset(all.rgb, pixels * 3),
          offset(all.depth, pixels),
          offset(all.alpha, pixels),
          offset(all.extras, pixels * shape_.num_extras),
          offset(all.median, pixels),
          nullptr};
}

RasterGrads ViewGroup::grads_of(const RasterGrads& all, int64_t set) const {
  int64_t rows = set * shape_.num_gaussians;
  return {offset(all.means, rows * 3),
          offset(all.quats, rows * 4),
          offset(all.scales, rows * 3),
          offset(all.opacities, rows),
          offset(all.sh, rows * shape_.num_bases * 3),
          offset(all.extras, rows * shape_.num_extras),
          nullptr,
          nullptr};
}

void ViewGroup::project() {
  splats_ = Scratch(num_views() * shape_.num_gaussians * sizeof(Splat));
  counts_.assign(num_views() * num_chunks_, 0);
  parallel_for(num_views() * num_chunks_, options_.num_threads, [&](int64_t i) {
    int64_t view = i / num_chunks_, chunk = i % num_chunks_;
    int64_t end = std::min((chunk + 1) * CHUNK, shape_.num_gaussians);
    counts_[i] = stages_->project(views_[view], static_cast<int>(chunk * CHUNK), static_cast<int>(end),
                                  chunk_splats(view, chunk));
  });
}

// Front to back. Many views sort side by side; a view alone is sorted by all threads.
void ViewGroup::sort() {
  std::vector<int64_t> chunk_starts(counts_.size() + 1, 0);
  for (size_t i = 0; i < counts_.size(); ++i) chunk_starts[i + 1] = chunk_starts[i] + counts_[i];
  order_starts_.resize(num_views() + 1);
  for (int64_t view = 0; view <= num_views(); ++view) order_starts_[view] = chunk_starts[view * num_chunks_];
  int64_t total = order_starts_.back();
  Scratch memory(2 * total * sizeof(DepthKey));
  DepthKey *keys = memory.as<DepthKey>(), *other = keys + total;
  order_ = Scratch(total * sizeof(uint32_t));
  parallel_for(num_views() * num_chunks_, options_.num_threads, [&](int64_t i) {
    const Splat* splats = chunk_splats(i / num_chunks_, i % num_chunks_);
    uint32_t first = static_cast<uint32_t>(i % num_chunks_ * CHUNK);
    for (int k = 0; k < counts_[i]; ++k)
      keys[chunk_starts[i] + k] = {depth_bits(splats[k].depth), first + static_cast<uint32_t>(k)};
  });
  bool apart = num_views() >= options_.num_threads;
  parallel_for(num_views(), apart ? options_.num_threads : 1, [&](int64_t view) {
    int64_t start = order_starts_[view];
    depth_sort(keys + start, other + start, order_size(view), order(view), apart ? 1 : options_.num_threads);
  });
}

void ViewGroup::bin() {
  parts_.clear();
  for (int64_t view = 0; view < num_views(); ++view)
    for (int64_t begin = 0; begin < order_size(view); begin += PART)
      parts_.push_back(Part{static_cast<int>(view), begin, std::min(begin + PART, order_size(view))});
  cursors_ = Scratch(parts_.size() * num_tiles_ * sizeof(uint32_t));
  slots_ = Scratch(num_views() * (shape_.num_gaussians + 1) * sizeof(uint32_t));
  std::vector<char> failed(parts_.size(), 0);
  std::atomic<int64_t> num_pairs{0};
  parallel_for(static_cast<int64_t>(parts_.size()), options_.num_threads, [&](int64_t i) {
    Part& part = parts_[i];
    if (num_pairs > MAX_PAIRS) return;
    failed[i] = !stages_->bin(views_[part.view], chunk_splats(part.view, 0), order(part.view) + part.begin,
                              part.end - part.begin, first_slots(part.view), part.list);
    part.cursors = cursors_.as<uint32_t>() + i * num_tiles_;
    std::memset(part.cursors, 0, num_tiles_ * sizeof(uint32_t));
    for (int64_t k = 0; k < part.list.size; ++k) ++part.cursors[part.list.data[k].tile];
    num_pairs += part.list.size;
  });
  if (num_pairs > MAX_PAIRS) throw TooManyPairs();
  for (char f : failed)
    if (f) throw std::bad_alloc();
}

// Counts of slots become first slots: sums of the chunks, their places, then a running sum within each chunk.
void ViewGroup::number_slots() {
  int64_t num_chunks = num_views() * num_chunks_;
  std::vector<uint32_t> places(num_chunks + 1, 0);
  auto chunk_slots = [&](int64_t i) { return first_slots(i / num_chunks_) + i % num_chunks_ * CHUNK; };
  parallel_for(num_chunks, options_.num_threads, [&](int64_t i) {
    const uint32_t* slots = chunk_slots(i);
    for (int k = 0; k < counts_[i]; ++k) places[i + 1] += slots[k];
  });
  for (int64_t i = 0; i < num_chunks; ++i) places[i + 1] += places[i];
  num_entries_ = places[num_chunks];
  parallel_for(num_chunks, options_.num_threads, [&](int64_t i) {
    uint32_t *slots = chunk_slots(i), next = places[i];
    for (int k = 0; k < counts_[i]; ++k) next += std::exchange(slots[k], next);
    // One past the chunk's last splat; in a full chunk that is the next one's first, which has the same value.
    if (counts_[i] < CHUNK || (i + 1) % num_chunks_ == 0) slots[counts_[i]] = next;
  });
}

// Where each part's entries of each tile go: parts are in depth order, so each tile's list is too.
void ViewGroup::place_parts() {
  uint32_t start = 0;
  size_t first = 0;
  for (int64_t view = 0; view < num_views(); ++view) {
    size_t last = first;
    while (last < parts_.size() && parts_[last].view == view) ++last;
    uint32_t* starts = tile_starts(view);
    for (int64_t tile = 0; tile < num_tiles_; ++tile) {
      starts[tile] = start;
      for (size_t p = first; p < last; ++p) start += std::exchange(parts_[p].cursors[tile], start);
    }
    starts[num_tiles_] = start;
    first = last;
  }
}

// Counting sort of the parts' entries into tiles.
void ViewGroup::scatter() {
  number_slots();
  starts_ = Scratch(num_views() * (num_tiles_ + 1) * sizeof(uint32_t));
  place_parts();
  entries_ = Scratch(num_entries_ * sizeof(Entry));
  parallel_for(static_cast<int64_t>(parts_.size()), options_.num_threads, [&](int64_t i) {
    Part& part = parts_[i];
    const uint32_t* slots = first_slots(part.view);
    uint32_t splat = ~0u, slot = 0;
    for (int64_t k = 0; k < part.list.size; ++k) {  // the entries of a splat follow each other
      const TileEntry& e = part.list.data[k];
      slot = e.splat == splat ? slot + 1 : slots[e.splat];
      splat = e.splat;
      entries_.as<Entry>()[part.cursors[e.tile]++] = {splat, slot, e.blocks};
    }
    part.list = {};
  });
  cursors_ = {};
}

template <class F>
void ViewGroup::for_tiles(const RasterImages& images, const RasterImages& v_images, float* slots, bool abs_sums,
                          const F& stage) {
  int64_t floats = raster_scratch(shape_.num_extras);
  parallel_for(num_views() * num_tiles_, options_.num_threads, [&](int64_t i) {
    int64_t view = i / num_tiles_, tile = i % num_tiles_;
    const uint32_t* starts = tile_starts(view);
    Scratch scratch(floats * sizeof(float));
    stage(TileTask{&views_[view], chunk_splats(view, 0), entries_.as<Entry>() + starts[tile],
                   starts[tile + 1] - starts[tile], static_cast<int>(tile % views_[view].tiles_x),
                   static_cast<int>(tile / views_[view].tiles_x), images_of(images, view), images_of(v_images, view),
                   slots, abs_sums, scratch.as<float>()});
  });
}

void ViewGroup::chunk_backward(int64_t set, int64_t chunk, const float* slots, float* viewmat_sums,
                               const RasterGrads& out) {
  int64_t first = std::max(set * shape_.num_views - begin_, int64_t{0});
  int64_t last = std::min((set + 1) * shape_.num_views - begin_, num_views());
  int64_t begin = chunk * CHUNK, end = std::min(begin + CHUNK, shape_.num_gaussians);
  RasterGrads rows = grads_of(out, set);
  if (begin_ + first == set * shape_.num_views) clear_rows(shape_, rows, begin, end);
  for (int64_t view = first; view < last; ++view) {
    float* sums = offset(viewmat_sums, (view * num_chunks_ + chunk) * 12);
    float* absgrads = offset(out.absgrads, (begin_ + view) * shape_.num_gaussians * ABS_SUMS);
    clear(offset(absgrads, begin * ABS_SUMS), (end - begin) * ABS_SUMS);
    stages_->project_vjp(views_[view], chunk_splats(view, chunk), chunk_count(view, chunk),
                         first_slots(view) + chunk * CHUNK, slots, {rows, sums, absgrads});
  }
}

void ViewGroup::backward(const RasterImages& images, const RasterImages& v_images, const RasterGrads& out,
                         StageClock& clock) {
  if (!num_views()) return;
  Scratch slots(num_entries_ * slot_floats(views_[0], out.absgrads != nullptr) * sizeof(float));
  for_tiles(images, v_images, slots.as<float>(), out.absgrads != nullptr, stages_->raster_vjp);
  clock.tick(4);
  Scratch viewmat_sums(out.viewmats ? num_views() * num_chunks_ * 12 * sizeof(float) : 0);
  clear(viewmat_sums.as<float>(), num_views() * num_chunks_ * 12);
  int64_t first_set = begin_ / shape_.num_views, last_set = (begin_ + num_views() - 1) / shape_.num_views;
  parallel_for((last_set - first_set + 1) * num_chunks_, options_.num_threads, [&](int64_t i) {
    chunk_backward(first_set + i / num_chunks_, i % num_chunks_, slots.as<float>(), viewmat_sums.as<float>(), out);
  });
  if (out.viewmats) add_viewmats(viewmat_sums.as<float>(), out.viewmats + begin_ * 16);
  clock.tick(5);
}

void ViewGroup::add_viewmats(const float* sums, float* viewmats) const {
  for (int64_t view = 0; view < num_views(); ++view, viewmats += 16)
    for (int64_t chunk = 0; chunk < num_chunks_; ++chunk, sums += 12)
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) viewmats[4 * i + j] += sums[3 * i + j];
        viewmats[4 * i + 3] += sums[9 + i];
      }
}

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

}  // namespace s4d
