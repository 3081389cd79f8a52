// Runs the stages on a stream: project -> depth sort -> count | emit -> sort by tile -> blend, and back. The one wait
// for the device is in prepare, where the number of entries comes back so that Python can allocate exactly what they
// need.
#include "ops_cuda.h"

#include "scene.h"

namespace s4d_cuda {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

namespace {

constexpr size_t ALIGNMENT = 256;

// Hands out pieces of one block of memory; with no block, only adds up.
class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    size_t start = used_;
    used_ += (static_cast<size_t>(count) * sizeof(T) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return memory_ ? reinterpret_cast<T*>(memory_ + start) : nullptr;
  }
  int64_t used() const { return static_cast<int64_t>(used_); }

 private:
  char* memory_;
  size_t used_ = 0;
};

int bit_length(int64_t x) {
  int bits = 0;
  for (; x > 0; x >>= 1) ++bits;
  return bits;
}

int row_key_bits(const Scene& s) { return DEPTH_BITS + bit_length(s.all_views); }
int entry_key_bits(const Scene& s) { return HALF_BITS + (s.num_tiles > 1 ? bit_length(s.num_tiles - 1) : 1); }

Scene make_scene(const s4d::RasterShape& shape, const s4d::RasterOptions& options, const s4d::RasterInputs& in) {
  Scene s = {};
  s.in = in;
  s.num_sets = static_cast<int>(shape.num_sets);
  s.num_views = static_cast<int>(shape.num_views);
  s.num_gaussians = static_cast<int>(shape.num_gaussians);
  s.num_bases = static_cast<int>(shape.num_bases);
  s.num_extras = static_cast<int>(shape.num_extras);
  s.width = static_cast<int>(shape.width);
  s.height = static_cast<int>(shape.height);
  s.all_views = s.num_sets * s.num_views;
  s.tiles_x = static_cast<int>(ceil_div(shape.width, TILE));
  s.tiles_y = static_cast<int>(ceil_div(shape.height, TILE));
  s.num_rows = static_cast<int64_t>(s.all_views) * s.num_gaussians;
  s.num_tiles = static_cast<int64_t>(s.all_views) * s.tiles_x * s.tiles_y;
  s.eps2d = options.eps2d;
  s.near = options.near;
  s.far = options.far;
  s.antialiased = options.antialiased != 0;
  return s;
}

Scene make_scene(const s4d::RasterShape& shape) { return make_scene(shape, {}, {}); }
Scene make_scene(const s4d::CudaTask& task) { return make_scene(task.shape, task.options, task.in); }

Rows kept_rows(const Scene& s, Carver& kept) {
  Rows rows = {};
  rows.stamps = kept.take<Stamp>(s.num_rows);
  rows.counts = kept.take<uint32_t>(s.num_rows);
  rows.first = kept.take<uint32_t>(s.num_rows);
  return rows;
}

Rows all_rows(const Scene& s, Carver& kept, Carver& scratch) {
  Rows rows = kept_rows(s, kept);
  int64_t n = s.num_rows;
  rows.radii = scratch.take<float2>(n);
  rows.keys = scratch.take<uint64_t>(n);
  rows.sorted_keys = scratch.take<uint64_t>(n);
  rows.rows = scratch.take<uint32_t>(n);
  rows.order = scratch.take<uint32_t>(n);
  rows.ends = rows.keys;  // the keys are done with once they are sorted
  size_t sort = sort_rows(nullptr, 0, nullptr, nullptr, nullptr, nullptr, n, row_key_bits(s), nullptr);
  size_t sum = running_sum(nullptr, 0, nullptr, n, nullptr);
  rows.temp_bytes = sort > sum ? sort : sum;
  rows.temp = scratch.take<char>(static_cast<int64_t>(rows.temp_bytes));
  return rows;
}

Entries kept_entries(const Scene& s, int64_t num_entries, Carver& kept) {
  Entries e = {};
  e.sorted_keys = kept.take<uint32_t>(num_entries);
  e.sorted = kept.take<uint2>(num_entries);
  e.ranges = kept.take<uint2>(s.num_tiles);
  return e;
}

Entries all_entries(const Scene& s, int64_t num_entries, Carver& kept, Carver& scratch) {
  Entries e = kept_entries(s, num_entries, kept);
  e.keys = scratch.take<uint32_t>(num_entries);
  e.values = scratch.take<uint2>(num_entries);
  e.temp_bytes =
      sort_entries(nullptr, 0, nullptr, nullptr, nullptr, nullptr, num_entries, HALF_BITS, entry_key_bits(s), nullptr);
  e.temp = scratch.take<char>(static_cast<int64_t>(e.temp_bytes));
  return e;
}

// What blending and backward need.
struct Kept {
  Rows rows;
  Entries entries;

  Kept(const Scene& s, const s4d::CudaTask& task) {
    Carver row_memory(task.rows), entry_memory(task.entries);
    rows = kept_rows(s, row_memory);
    entries = kept_entries(s, task.num_entries, entry_memory);
  }
};

Rows rows_of(const Scene& s, const s4d::CudaTask& task) {
  Carver kept(task.rows), scratch(task.row_scratch);
  return all_rows(s, kept, scratch);
}

Entries entries_of(const Scene& s, const s4d::CudaTask& task) {
  Carver kept(task.entries), scratch(task.entry_scratch);
  return all_entries(s, task.num_entries, kept, scratch);
}

// Fast and plain 2^x and 1 / x of the `count` values, in four rows.
__global__ void compare_math(const float* values, int64_t count, float* out) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * WARP + threadIdx.x;
  if (i >= count) return;
  out[i] = power_of_two<FAST_MATH>(values[i]);
  out[count + i] = power_of_two<false>(values[i]);
  out[2 * count + i] = reciprocal<FAST_MATH>(values[i]);
  out[3 * count + i] = reciprocal<false>(values[i]);
}

int status() { return launched() ? s4d::CUDA_OK : s4d::CUDA_FAILED; }

}  // namespace
}  // namespace s4d_cuda

namespace s4d {

using namespace s4d_cuda;

bool cuda_device_usable(int device) {
  OnDevice on(device);
  return on && runs_here(compare_math);
}

CudaBytes cuda_rows_bytes(const RasterShape& shape, int device) {
  OnDevice on(device);
  Carver kept(nullptr), scratch(nullptr);
  all_rows(make_scene(shape), kept, scratch);
  return {kept.used(), scratch.used()};
}

CudaBytes cuda_entries_bytes(const RasterShape& shape, int64_t num_entries, int device) {
  OnDevice on(device);
  Carver kept(nullptr), scratch(nullptr);
  all_entries(make_scene(shape), num_entries, kept, scratch);
  return {kept.used(), scratch.used()};
}

int64_t cuda_slots_bytes(const RasterShape& shape, int64_t num_entries, bool absgrads, bool viewmats) {
  Carver carver(nullptr);
  carver.take<float>(num_entries * slot_stride(static_cast<int>(shape.num_extras), absgrads));
  if (viewmats) carver.take<float>(camera_parts(shape));
  return carver.used();
}

int cuda_prepare(const CudaTask& task, float* radii, int64_t* num_entries) {
  *num_entries = 0;
  OnDevice on(task.device);
  if (!on) return CUDA_FAILED;
  Scene scene = make_scene(task);
  if (scene.num_rows == 0) return CUDA_OK;
  Stream stream = static_cast<Stream>(task.stream);
  Rows rows = rows_of(scene, task);
  project(scene, rows, radii, stream);
  sort_rows(rows.temp, rows.temp_bytes, rows.keys, rows.sorted_keys, rows.rows, rows.order, scene.num_rows,
            row_key_bits(scene), stream);
  count_in_order(scene, rows, stream);
  running_sum(rows.temp, rows.temp_bytes, rows.ends, scene.num_rows, stream);
  if (!launched() || !read_back(num_entries, rows.ends + scene.num_rows - 1, sizeof(uint64_t), stream))
    return CUDA_FAILED;
  return CUDA_OK;
}

int cuda_bin(const CudaTask& task) {
  OnDevice on(task.device);
  if (!on) return CUDA_FAILED;
  Scene scene = make_scene(task);
  Stream stream = static_cast<Stream>(task.stream);
  Entries entries = entries_of(scene, task);
  if (task.num_entries > 0) {
    emit(scene, rows_of(scene, task), entries, stream);
    sort_entries(entries.temp, entries.temp_bytes, entries.keys, entries.sorted_keys, entries.values, entries.sorted,
                 task.num_entries, HALF_BITS, entry_key_bits(scene), stream);
  }
  find_ranges(scene, entries, task.num_entries, stream);
  return status();
}

int cuda_blend(const CudaTask& task, const RasterImages& out) {
  OnDevice on(task.device);
  if (!on) return CUDA_FAILED;
  Scene scene = make_scene(task);
  Kept kept(scene, task);
  raster(scene, kept.rows, kept.entries, out, static_cast<Stream>(task.stream));
  return status();
}

int cuda_backward(const CudaTask& task, const RasterImages& images, const RasterImages& v_images, void* slots,
                  const RasterGrads& out) {
  OnDevice on(task.device);
  if (!on) return CUDA_FAILED;
  Scene scene = make_scene(task);
  Stream stream = static_cast<Stream>(task.stream);
  RasterGrads wanted = out;
  if (!v_images.extras || !scene.num_extras) {  // nothing comes in through the extra channels
    if (out.extras)
      fill_zero(out.extras, sizeof(float) * scene.num_sets * scene.num_gaussians * scene.num_extras, stream);
    wanted.extras = nullptr;
    scene.num_extras = 0;
  }
  bool absgrads = out.absgrads != nullptr;
  Carver carver(slots);
  float* sums = carver.take<float>(task.num_entries * slot_stride(scene.num_extras, absgrads));
  float* parts = carver.take<float>(0);
  Kept kept(scene, task);
  raster_vjp(scene, kept.rows, kept.entries, images, v_images, sums, absgrads, stream);
  project_vjp(scene, kept.rows, sums, parts, wanted, stream);
  return status();
}

int cuda_compare_math(const float* values, int64_t count, float* out, int device, void* stream) {
  OnDevice on(device);
  if (!on) return CUDA_FAILED;
  launch(compare_math, ceil_div(count, WARP), WARP, static_cast<Stream>(stream), values, count, out);
  return status();
}

}  // namespace s4d
