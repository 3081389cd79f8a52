// ctypes' binding of ops_cuda.h in the shim build, as bind_cuda.cpp is Python's: addresses and sizes in, a status code
// out.
#include "ops_cuda.h"
#include "shim.h"

namespace {

struct Call {
  int64_t shape[7];
  float floats[3];
  int32_t antialiased;
  const void* inputs[10];
  void* memory[4];  // rows, row scratch, entries, entry scratch
  int64_t num_entries;
};

s4d::RasterShape shape_of(const int64_t* s) { return {s[0], s[1], s[2], s[3], s[4], s[5], s[6]}; }

const float* in(const void* address) { return static_cast<const float*>(address); }

s4d::CudaTask task_of(const Call& c) {
  s4d::RasterOptions options = {};
  options.eps2d = c.floats[0];
  options.near = c.floats[1];
  options.far = c.floats[2];
  options.antialiased = c.antialiased;
  const void* const* a = c.inputs;
  s4d::RasterInputs inputs = {
      in(a[0]), in(a[1]), in(a[2]), in(a[3]), in(a[4]), in(a[5]), static_cast<const int64_t*>(a[6]),
      in(a[7]), in(a[8]), in(a[9])};
  return {shape_of(c.shape), options,     inputs,        c.memory[0], c.memory[1],
          c.memory[2],       c.memory[3], c.num_entries, 0,           nullptr};
}

s4d::RasterImages images_of(float* const* a) { return {a[0], a[1], a[2], a[3], a[4], a[5]}; }

}  // namespace

extern "C" {

void shim_schedule(int schedule, unsigned seed) { shim::set_schedule(static_cast<shim::Schedule>(schedule), seed); }

void shim_rows_bytes(const int64_t* shape, s4d::CudaBytes* out) { *out = s4d::cuda_rows_bytes(shape_of(shape), 0); }
void shim_entries_bytes(const int64_t* shape, int64_t num_entries, s4d::CudaBytes* out) {
  *out = s4d::cuda_entries_bytes(shape_of(shape), num_entries, 0);
}
int64_t shim_slots_bytes(const int64_t* shape, int64_t num_entries, int absgrads, int viewmats) {
  return s4d::cuda_slots_bytes(shape_of(shape), num_entries, absgrads, viewmats);
}

int shim_prepare(const Call* c, float* radii, int64_t* num_entries) {
  return s4d::cuda_prepare(task_of(*c), radii, num_entries);
}
int shim_bin(const Call* c) { return s4d::cuda_bin(task_of(*c)); }
int shim_blend(const Call* c, float* const* images) { return s4d::cuda_blend(task_of(*c), images_of(images)); }

int shim_backward(const Call* c, float* const* images, float* const* v_images, void* slots, float* const* grads) {
  s4d::RasterGrads out = {grads[0], grads[1], grads[2], grads[3], grads[4], grads[5], grads[6], grads[7]};
  return s4d::cuda_backward(task_of(*c), images_of(images), images_of(v_images), slots, out);
}

}  // extern "C"
