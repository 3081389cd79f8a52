// Python's binding of cuda/ops_cuda.h: addresses and sizes in, a status code out. Checks nothing:
// scene4d/native/cuda.py does.
#include "bind_cuda.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>

#include <array>
#include <cstdint>
#include <utility>

#include "cuda/ops_cuda.h"

namespace nb = nanobind;

namespace {

using Shape = std::array<int64_t, 7>;
using Addresses10 = std::array<uintptr_t, 10>;
using Addresses8 = std::array<uintptr_t, 8>;
using Addresses6 = std::array<uintptr_t, 6>;
using Memory = std::array<uintptr_t, 4>;  // rows, row scratch, entries, entry scratch
using Where = std::array<int64_t, 3>;     // device, stream, number of entries

s4d::RasterShape shape_of(const Shape& s) { return {s[0], s[1], s[2], s[3], s[4], s[5], s[6]}; }

float* floats_at(uintptr_t address) { return reinterpret_cast<float*>(address); }
void* at(uintptr_t address) { return reinterpret_cast<void*>(address); }

s4d::RasterImages images_of(const Addresses6& a) {
  return {floats_at(a[0]), floats_at(a[1]), floats_at(a[2]), floats_at(a[3]), floats_at(a[4]), floats_at(a[5])};
}

struct Call {
  Shape shape;
  std::array<float, 3> floats;  // eps2d, near, far
  bool antialiased;
  Addresses10 inputs;
  Memory memory;
  Where where;

  s4d::CudaTask task() const {
    s4d::RasterOptions options = {};
    options.eps2d = floats[0];
    options.near = floats[1];
    options.far = floats[2];
    options.antialiased = antialiased;
    const Addresses10& a = inputs;
    s4d::RasterInputs in = {floats_at(a[0]),
                            floats_at(a[1]),
                            floats_at(a[2]),
                            floats_at(a[3]),
                            floats_at(a[4]),
                            floats_at(a[5]),
                            reinterpret_cast<const int64_t*>(a[6]),
                            floats_at(a[7]),
                            floats_at(a[8]),
                            floats_at(a[9])};
    return {shape_of(shape),
            options,
            in,
            at(memory[0]),
            at(memory[1]),
            at(memory[2]),
            at(memory[3]),
            where[2],
            static_cast<int>(where[0]),
            at(static_cast<uintptr_t>(where[1]))};
  }
};

std::pair<int64_t, int64_t> rows_bytes(const Shape& shape, int device) {
  s4d::CudaBytes bytes = s4d::cuda_rows_bytes(shape_of(shape), device);
  return {bytes.kept, bytes.scratch};
}

std::pair<int64_t, int64_t> entries_bytes(const Shape& shape, int64_t num_entries, int device) {
  s4d::CudaBytes bytes = s4d::cuda_entries_bytes(shape_of(shape), num_entries, device);
  return {bytes.kept, bytes.scratch};
}

int64_t slots_bytes(const Shape& shape, int64_t num_entries, bool absgrads, bool viewmats) {
  return s4d::cuda_slots_bytes(shape_of(shape), num_entries, absgrads, viewmats);
}

std::pair<int, int64_t> prepare(const Call& call, uintptr_t radii) {
  nb::gil_scoped_release release;
  int64_t num_entries = 0;
  int status = s4d::cuda_prepare(call.task(), floats_at(radii), &num_entries);
  return {status, num_entries};
}

int bin(const Call& call) {
  nb::gil_scoped_release release;
  return s4d::cuda_bin(call.task());
}

int blend(const Call& call, const Addresses6& images) {
  nb::gil_scoped_release release;
  return s4d::cuda_blend(call.task(), images_of(images));
}

int backward(const Call& call, const Addresses6& images, const Addresses6& v_images, uintptr_t slots,
             const Addresses8& grads) {
  nb::gil_scoped_release release;
  s4d::RasterGrads out = {floats_at(grads[0]), floats_at(grads[1]), floats_at(grads[2]), floats_at(grads[3]),
                          floats_at(grads[4]), floats_at(grads[5]), floats_at(grads[6]), floats_at(grads[7])};
  return s4d::cuda_backward(call.task(), images_of(images), images_of(v_images), at(slots), out);
}

int compare_math(uintptr_t values, int64_t count, uintptr_t out, int device, uintptr_t stream) {
  return s4d::cuda_compare_math(floats_at(values), count, floats_at(out), device, at(stream));
}

}  // namespace

void bind_cuda(nb::module_& m) {
  nb::class_<Call>(m, "CudaCall").def(nb::init<Shape, std::array<float, 3>, bool, Addresses10, Memory, Where>());
  m.def("cuda_device_usable", &s4d::cuda_device_usable);
  m.def("cuda_rows_bytes", &rows_bytes);
  m.def("cuda_entries_bytes", &entries_bytes);
  m.def("cuda_slots_bytes", &slots_bytes);
  m.def("cuda_prepare", &prepare);
  m.def("cuda_bin", &bin);
  m.def("cuda_blend", &blend);
  m.def("cuda_backward", &backward);
  m.def("cuda_compare_math", &compare_math);
}
