// The ops of ops.h: which kernels, which views together, what is kept from forward to backward.
#include <new>
#include <memory>

#include "kept.h"
#include "stage_clock.h"
#include "view_group.h"

S4D_DECLARE_STAGES(s4d_base)
#ifdef S4D_X86
S4D_DECLARE_STAGES(s4d_avx2)
S4D_DECLARE_STAGES(s4d_avx512)
#endif

namespace s4d {
namespace {

constexpr int64_t GROUP_ROWS = 2 << 20;  // rows in work at once: bounds memory when there are many views

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

double stage_seconds[NUM_STAGES];

// Calls run(begin, end) for groups of views; a status.
template <class F>
int for_groups(const RasterShape& shape, const F& run) {
  int64_t total = shape.num_sets * shape.num_views;
  int64_t step = std::max<int64_t>(1, GROUP_ROWS / std::max<int64_t>(shape.num_gaussians, 1));
  try {
    for (int64_t begin = 0; begin < total; begin += step) run(begin, std::min(begin + step, total));
  } catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
  } catch (const TooManyPairs&) {
    return TOO_MANY_PAIRS;
  }
  return OK;
}

}  // namespace

int best_instruction_set() {
#ifdef S4D_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

int rasterize(const RasterShape& shape, const RasterOptions& options, const RasterInputs& in, const RasterImages& out,
              int64_t token) {
  const Stages* stages = stages_of(options.instruction_set);
  if (!stages) return BAD_INSTRUCTION_SET;
  StageClock clock(stage_seconds);
  return for_groups(shape, [&](int64_t begin, int64_t end) {
    auto group = std::make_unique<ViewGroup>(shape, options, *stages, begin, end);
    group->bind(in, out.radii);
    group->prepare(clock);
    group->raster(out, clock);
    if (token && end - begin == shape.num_sets * shape.num_views) keep(token, std::move(group));
  });
}

int rasterize_backward(const RasterShape& shape, const RasterOptions& options, const RasterInputs& in,
                       const RasterImages& images, const RasterImages& v_images, const RasterGrads& out,
                       int64_t token) {
  const Stages* stages = stages_of(options.instruction_set);
  if (!stages) return BAD_INSTRUCTION_SET;
  prefer_huge_pages(out.sh, shape.num_sets * shape.num_gaussians * shape.num_bases * 3 * sizeof(float));
  if (shape.num_views == 0 || shape.num_gaussians == 0)
    clear_rows(shape, out, 0, shape.num_sets * shape.num_gaussians);
  clear(out.viewmats, shape.num_sets * shape.num_views * 16);
  StageClock clock(stage_seconds);
  return for_groups(shape, [&](int64_t begin, int64_t end) {
    std::unique_ptr<ViewGroup> group = take(token);
    bool made = group == nullptr;
    if (made) group = std::make_unique<ViewGroup>(shape, options, *stages, begin, end);
    group->bind(in, nullptr);
    if (made) group->prepare(clock);
    group->backward(images, v_images, out, clock);
  });
}

void release(int64_t token) { take(token); }

void last_stage_seconds(double (&out)[NUM_STAGES]) {
  for (int i = 0; i < NUM_STAGES; ++i) out[i] = stage_seconds[i];
}

}  // namespace s4d
