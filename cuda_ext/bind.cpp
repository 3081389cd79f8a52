// Python's door to ops.h: addresses and sizes in, a status code out. Checks nothing: scene4d/native/ops.py does.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include <array>
#include <cstdint>

#include "ops.h"

namespace nb = nanobind;

namespace {

using Shape = std::array<int64_t, 7>;
using Addresses10 = std::array<uintptr_t, 10>;
using Addresses7 = std::array<uintptr_t, 7>;
using Addresses4 = std::array<uintptr_t, 4>;

s4d::RasterShape shape_of(const Shape& s) { return {s[0], s[1], s[2], s[3], s[4], s[5], s[6]}; }

const float* in(uintptr_t address) { return reinterpret_cast<const float*>(address); }
float* out(uintptr_t address) { return reinterpret_cast<float*>(address); }

s4d::RasterInputs inputs_of(const Addresses10& a) {
  return {in(a[0]), in(a[1]), in(a[2]), in(a[3]), in(a[4]),
          in(a[5]), reinterpret_cast<const int64_t*>(a[6]), in(a[7]), in(a[8]), in(a[9])};
}

s4d::RasterImages images_of(const Addresses4& a) { return {out(a[0]), out(a[1]), out(a[2]), out(a[3])}; }

s4d::RasterOptions options_of(const std::array<float, 3>& floats, int threads, int instruction_set) {
  return {floats[0], floats[1], floats[2], threads, instruction_set};
}

int rasterize(const Shape& shape, const std::array<float, 3>& floats, int threads, int instruction_set,
              const Addresses10& inputs, const Addresses4& images) {
  nb::gil_scoped_release release;
  return s4d::rasterize(shape_of(shape), options_of(floats, threads, instruction_set), inputs_of(inputs),
                        images_of(images));
}

int rasterize_backward(const Shape& shape, const std::array<float, 3>& floats, int threads, int instruction_set,
                       const Addresses10& inputs, const Addresses4& images, const Addresses4& v_images,
                       const Addresses7& grads) {
  nb::gil_scoped_release release;
  s4d::RasterGrads v = {out(grads[0]), out(grads[1]), out(grads[2]), out(grads[3]),
                        out(grads[4]), out(grads[5]), out(grads[6])};
  return s4d::rasterize_backward(shape_of(shape), options_of(floats, threads, instruction_set), inputs_of(inputs),
                                 images_of(images), images_of(v_images), v);
}

}  // namespace

NB_MODULE(_ext, m) {
  m.attr("interface") = 1;  // scene4d/native/ops.py asks for this number
  m.def("best_instruction_set", &s4d::best_instruction_set);
  m.def("rasterize", &rasterize);
  m.def("rasterize_backward", &rasterize_backward);
}
