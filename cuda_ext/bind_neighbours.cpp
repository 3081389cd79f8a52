// Python's binding of neighbours.h, as bind.cpp is of ops.h. Checks nothing: scene4d/native/nearest.py does.
#include "bind_neighbours.h"

#include <nanobind/stl/array.h>

#include <array>
#include <cstdint>

#include "neighbours.h"

namespace nb = nanobind;

namespace {

using Counts = std::array<int64_t, 3>;  // sets, axes, neighbours asked for
using Options = std::array<int, 4>;     // is_double, spatial, threads, instruction set
using Rows = std::array<uintptr_t, 3>;  // address of rows, of their mask, number of rows

s4d::NeighbourOptions options_of(const Counts& counts, const Options& o) {
  return {counts[0], counts[1], o[0], o[1], o[2], o[3]};
}

s4d::RowSets rows_of(const Rows& rows) {
  return {reinterpret_cast<const void*>(rows[0]), reinterpret_cast<const uint8_t*>(rows[1]),
          static_cast<int64_t>(rows[2])};
}

int farthest_points(const Counts& counts, const Options& options, const Rows& points, uintptr_t start, uintptr_t index,
                    uintptr_t squares) {
  nb::gil_scoped_release release;
  return s4d::farthest_points(options_of(counts, options), rows_of(points), reinterpret_cast<const int64_t*>(start),
                              counts[2], reinterpret_cast<int64_t*>(index), reinterpret_cast<void*>(squares));
}

int nearest(const Counts& counts, const Options& options, const Rows& points, const Rows& queries, uintptr_t squares,
            uintptr_t index) {
  nb::gil_scoped_release release;
  return s4d::nearest(options_of(counts, options), rows_of(points), rows_of(queries), counts[2],
                      reinterpret_cast<void*>(squares), reinterpret_cast<int64_t*>(index));
}

#ifdef S4D_CUDA
using Place = std::array<int64_t, 2>;  // device, stream

s4d::CudaPlace place_of(const Place& place) {
  return {static_cast<int>(place[0]), reinterpret_cast<void*>(static_cast<uintptr_t>(place[1]))};
}

int cuda_farthest_points(const Counts& counts, const Options& options, const Rows& points, uintptr_t start,
                         uintptr_t index, uintptr_t squares, uintptr_t gaps, const Place& place) {
  nb::gil_scoped_release release;
  return s4d::cuda_farthest_points(options_of(counts, options), rows_of(points),
                                   reinterpret_cast<const int64_t*>(start), counts[2],
                                   reinterpret_cast<int64_t*>(index), reinterpret_cast<void*>(squares),
                                   reinterpret_cast<void*>(gaps), place_of(place));
}

int cuda_nearest(const Counts& counts, const Options& options, const Rows& points, const Rows& queries,
                 uintptr_t squares, uintptr_t index, const Place& place) {
  nb::gil_scoped_release release;
  return s4d::cuda_nearest(options_of(counts, options), rows_of(points), rows_of(queries), counts[2],
                           reinterpret_cast<void*>(squares), reinterpret_cast<int64_t*>(index), place_of(place));
}
#endif

}  // namespace

void bind_neighbours(nb::module_& m) {
  m.def("farthest_points", &farthest_points);
  m.def("nearest", &nearest);
#ifdef S4D_CUDA
  m.def("cuda_farthest_points", &cuda_farthest_points);
  m.def("cuda_nearest", &cuda_nearest);
#endif
}
