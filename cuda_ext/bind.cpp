// Python's binding of ops.h: addresses and sizes in, a status code out. Checks nothing: scene4d/native/ops.py does.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include <array>
#include <cstdint>

#ifdef S4D_CUDA
#include "bind_cuda.h"
#endif
#include "bind_neighbours.h"
#include "ops.h"

namespace nb = nanobind;

namespace {

using Shape = std::array<int64_t, 7>;
using Addresses10 = std::array<uintptr_t, 10>;
using Addresses8 = std::array<uintptr_t, 8>;
using Addresses6 = std::array<uintptr_t, 6>;

s4d::RasterShape shape_of(const Shape& s) { return {s[0], s[1], s[2], s[3], s[4], s[5], s[6]}; }

const float* in(uintptr_t address) { return reinterpret_cast<const float*>(address); }
float* out(uintptr_t address) { return reinterpret_cast<float*>(address); }

s4d::RasterInputs inputs_of(const Addresses10& a) {
  return {in(a[0]), in(a[1]), in(a[2]), in(a[3]), in(a[4]),
          in(a[5]), reinterpret_cast<const int64_t*>(a[6]), in(a[7]), in(a[8]), in(a[9])};
}

s4d::RasterImages images_of(const Addresses6& a) {
  return {out(a[0]), out(a[1]), out(a[2]), out(a[3]), out(a[4]), out(a[5])};
}

s4d::RasterOptions options_of(const std::array<float, 3>& floats, const std::array<int, 3>& ints) {
  return {floats[0], floats[1], floats[2], ints[0], ints[1], ints[2]};
}

// `ints`: anti-aliased, threads, instruction set.
int rasterize(const Shape& shape, const std::array<float, 3>& floats, const std::array<int, 3>& ints,
              const Addresses10& inputs, const Addresses6& images, int64_t token) {
  nb::gil_scoped_release release;
  return s4d::rasterize(shape_of(shape), options_of(floats, ints), inputs_of(inputs), images_of(images), token);
}

int rasterize_backward(const Shape& shape, const std::array<float, 3>& floats, const std::array<int, 3>& ints,
                       const Addresses10& inputs, const Addresses6& images, const Addresses6& v_images,
                       const Addresses8& grads, int64_t token) {
  nb::gil_scoped_release release;
  s4d::RasterGrads v = {out(grads[0]), out(grads[1]), out(grads[2]), out(grads[3]),
                        out(grads[4]), out(grads[5]), out(grads[6]), out(grads[7])};
  return s4d::rasterize_backward(shape_of(shape), options_of(floats, ints), inputs_of(inputs), images_of(images),
                                 images_of(v_images), v, token);
}

nb::dict stage_seconds() {
  static const char* const NAMES[s4d::NUM_STAGES] = {"project", "sort", "bin", "scatter", "raster", "project_vjp"};
  double seconds[s4d::NUM_STAGES];
  s4d::last_stage_seconds(seconds);
  nb::dict result;
  for (int i = 0; i < s4d::NUM_STAGES; ++i) result[NAMES[i]] = seconds[i];
  return result;
}

}  // namespace

NB_MODULE(_ext, m) {
  m.attr("interface") = 3;  // scene4d/native/ops.py asks for this number
  m.attr("max_pairs") = s4d::MAX_PAIRS;
  m.def("best_instruction_set", &s4d::best_instruction_set);
  m.def("rasterize", &rasterize);
  m.def("rasterize_backward", &rasterize_backward);
  m.def("release", &s4d::release);
  bind_neighbours(m);
#ifdef S4D_CUDA
  bind_cuda(m);
#endif
  m.def("last_stage_seconds", &stage_seconds);
}
