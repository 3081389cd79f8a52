// Slots to gradients by the Gaussians and the cameras: one thread a Gaussian walks over its views, so that every
// gradient has one writer and is written once, zeros included. A row of many slots is summed by its whole warp.
#include "scene.h"
#include "splat_rows.h"

namespace s4d_cuda {
namespace {

constexpr uint32_t ALONE = 16;  // slots that one lane sums alone
constexpr int CAMERA_SUMS = 12;
constexpr int WARPS = ROWS_PER_BLOCK / WARP;

template <int N>
S4D_DEVICE void add_slots(const float* slots, int stride, uint32_t first, uint32_t end, uint32_t step,
                          float (&sums)[N]) {
  for (uint32_t k = first; k < end; k += step) {
    const float* slot = slots + static_cast<int64_t>(k) * stride;
  S4D_UNROLL
    for (int j = 0; j < N; ++j) sums[j] += slot[j];
  }
}

// All lanes of a warp come here, those without slots too.
template <int N>
S4D_DEVICE void sum_slots(const float* slots, int stride, uint32_t first, uint32_t count, float (&sums)[N]) {
  S4D_UNROLL
  for (float& x : sums) x = 0.0f;
  add_slots(slots, stride, first, first + (count < ALONE ? count : ALONE), 1, sums);
  for (unsigned large = __ballot_sync(FULL_WARP, count > ALONE); large; large &= large - 1) {
    int source = __ffs(static_cast<int>(large)) - 1;
    uint32_t its_first = __shfl_sync(FULL_WARP, first, source), its_count = __shfl_sync(FULL_WARP, count, source);
    float part[N] = {};
    add_slots(slots, stride, its_first + ALONE + lane_index(), its_first + its_count, WARP, part);
    S4D_UNROLL
    for (int j = 0; j < N; ++j) {
      float total = warp_sum(part[j]);
      sums[j] += lane_index() == source ? total : 0.0f;
    }
  }
}

struct GaussianGrads {
  Vec3<float> mean, scale;
  Quat<float> quat;
  float opacity;

  S4D_DEVICE void add(const SplatGrad<float>& g, float v_opacity) {
    mean = {mean.x + g.mean.x, mean.y + g.mean.y, mean.z + g.mean.z};
    scale = {scale.x + g.scale.x, scale.y + g.scale.y, scale.z + g.scale.z};
    quat = {quat.w + g.quat.w, quat.x + g.quat.x, quat.y + g.quat.y, quat.z + g.quat.z};
    opacity += v_opacity;
  }

  S4D_DEVICE void write(const s4d::RasterGrads& out, int64_t i) const {
    if (out.means) out.means[3 * i] = mean.x, out.means[3 * i + 1] = mean.y, out.means[3 * i + 2] = mean.z;
    if (out.scales) out.scales[3 * i] = scale.x, out.scales[3 * i + 1] = scale.y, out.scales[3 * i + 2] = scale.z;
    if (out.quats) *reinterpret_cast<float4*>(out.quats + 4 * i) = make_float4(quat.w, quat.x, quat.y, quat.z);
    if (out.opacities) out.opacities[i] = opacity;
  }
};

// Gradients by the coefficients: written by the first view that sees the Gaussian, added to by the others.
template <int K>
S4D_DEVICE void put_sh(const Camera<float>& cam, const Vec3<float>& mean, const Stamp& stamp, const float* sums,
                       bool add, float* out) {
  float basis[MAX_BASES];
  sh_basis(view_direction(cam, mean), K, basis);
  float v[3];
  S4D_UNROLL
  for (int c = 0; c < 3; ++c) v[c] = stamp.flags >> c & 1u ? 0.0f : sums[6 + c];
  if constexpr (K % 4 == 0) {  // whole 16-byte stores
    float4* rows = reinterpret_cast<float4*>(out);
    S4D_UNROLL
    for (int j = 0; j < 3 * K / 4; ++j) {
      float4 old = add ? rows[j] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      const auto value = [&](int i, float before) { return fma(basis[i / 3], v[i % 3], before); };
      int i = 4 * j;
      rows[j] = make_float4(value(i, old.x), value(i + 1, old.y), value(i + 2, old.z), value(i + 3, old.w));
    }
  } else {
    S4D_UNROLL
    for (int i = 0; i < 3 * K; ++i) out[i] = fma(basis[i / 3], v[i % 3], add ? out[i] : 0.0f);
  }
}

// One row: its slot sums to its gradients.
template <int N>
S4D_DEVICE SplatGrad<float> row_vjp(const Scene& s, const Camera<float>& cam, const Inputs& in, const Stamp& stamp,
                                    float opacity, const float (&sums)[N], GaussianGrads& total) {
  Conic<float> conic = {stamp.a * (-2.0f * LN_2), stamp.b * -LN_2, stamp.c * (-2.0f * LN_2)};
  EllipseGrad<float> v;
  v.v_u = fma(conic.a, sums[1], conic.b * sums[2]);
  v.v_v = fma(conic.b, sums[1], conic.c * sums[2]);
  v.v_depth = sums[9];
  v.v_conic = {-0.5f * sums[3], -sums[4], -0.5f * sums[5]};
  v.v_factor = sums[0] / stamp.factor;
  Projection<float> p = project_axes(cam, in.mean, in.quat, in.scale);
  SplatGrad<float> g =
      splat_vjp(cam, in.mean, in.quat, in.scale, p, conic, v, s.antialiased ? s.eps2d : 0.0f);
  total.add(g, sums[0] / opacity);
  return g;
}

S4D_DEVICE void sum_camera(const SplatGrad<float>& g, float* part) {
  S4D_UNROLL
  for (int j = 0; j < 9; ++j) {
    float total = warp_sum(g.rotation.m[j]);
    if (lane_index() == 0) part[j] = total;
  }
  float x = warp_sum(g.translation.x), y = warp_sum(g.translation.y), z = warp_sum(g.translation.z);
  if (lane_index() == 0) part[9] = x, part[10] = y, part[11] = z;
}

template <int K, bool ABS>
__global__ void __launch_bounds__(ROWS_PER_BLOCK)
    project_rows_vjp(Scene s, Rows rows, const float* slots, int stride, float* camera_parts, s4d::RasterGrads out) {
  constexpr int N = FIXED_SUMS + (ABS ? ABS_SUMS : 0);
  int blocks_per_set = (s.num_gaussians + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK;
  int set = static_cast<int>(blockIdx.x / blocks_per_set), block = static_cast<int>(blockIdx.x % blocks_per_set);
  int n = block * ROWS_PER_BLOCK + static_cast<int>(threadIdx.x);
  bool inside = n < s.num_gaussians;
  int64_t gaussian = static_cast<int64_t>(set) * s.num_gaussians + n;
  GaussianGrads total = {};
  bool seen = false;
  for (int i = 0; i < s.num_views; ++i) {
    int64_t view = static_cast<int64_t>(set) * s.num_views + i, index = view * s.num_gaussians + n;
    uint32_t count = inside ? rows.counts[index] : 0u, first = count ? rows.first[index] : 0u;
    float sums[N];
    sum_slots(slots, stride, first, count, sums);
    SplatGrad<float> g = {};
    if (count) {
      Camera<float> cam = view_camera(s, view);
      Inputs in = load_inputs(s, gaussian);
      const Stamp stamp = rows.stamps[index];
      g = row_vjp(s, cam, in, stamp, s.in.opacities[gaussian], sums, total);
      if (out.sh) put_sh<K>(cam, in.mean, stamp, sums, seen, out.sh + gaussian * (3 * K));
      seen = true;
    }
    if constexpr (ABS)
      if (inside) out.absgrads[2 * index] = sums[FIXED_SUMS], out.absgrads[2 * index + 1] = sums[FIXED_SUMS + 1];
    if (camera_parts)
      sum_camera(g, camera_parts + ((view * blocks_per_set + block) * WARPS + warp_index()) * CAMERA_SUMS);
  }
  if (!inside) return;
  total.write(out, gaussian);
  if (out.sh && !seen)
    for (int k = 0; k < 3 * K; ++k) out.sh[gaussian * (3 * K) + k] = 0.0f;
}

// One thread a Gaussian and channel.
__global__ void __launch_bounds__(ROWS_PER_BLOCK)
    sum_extras(Scene s, Rows rows, const float* slots, int stride, float* out) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * ROWS_PER_BLOCK + threadIdx.x;
  int64_t gaussian = i / s.num_extras;
  int channel = static_cast<int>(i - gaussian * s.num_extras);
  if (gaussian >= static_cast<int64_t>(s.num_sets) * s.num_gaussians) return;
  int64_t set = gaussian / s.num_gaussians, n = gaussian - set * s.num_gaussians;
  const float* column = slots + (stride - s.num_extras) + channel;
  float total = 0.0f;
  for (int view = 0; view < s.num_views; ++view) {
    int64_t index = (set * s.num_views + view) * s.num_gaussians + n;
    uint32_t count = rows.counts[index], first = count ? rows.first[index] : 0u;
    for (uint32_t k = 0; k < count; ++k) total += column[static_cast<int64_t>(first + k) * stride];
  }
  out[i] = total;
}

// One block a view: adds up the partial sums of its warps, in a fixed order.
__global__ void __launch_bounds__(ROWS_PER_BLOCK)
    sum_cameras(const float* parts, int64_t parts_per_view, float* viewmats) {
  struct Shared {
    float sums[ROWS_PER_BLOCK][CAMERA_SUMS + 1];
  };
  S4D_SHARED(Shared, shared);
  const float* mine = parts + blockIdx.x * parts_per_view * CAMERA_SUMS;
  float sums[CAMERA_SUMS] = {};
  for (int64_t k = threadIdx.x; k < parts_per_view; k += ROWS_PER_BLOCK)
    for (int j = 0; j < CAMERA_SUMS; ++j) sums[j] += mine[k * CAMERA_SUMS + j];
  for (int j = 0; j < CAMERA_SUMS; ++j) shared.sums[threadIdx.x][j] = sums[j];
  for (unsigned half = ROWS_PER_BLOCK / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half)
      for (int j = 0; j < CAMERA_SUMS; ++j) shared.sums[threadIdx.x][j] += shared.sums[threadIdx.x + half][j];
  }
  __syncthreads();
  if (threadIdx.x >= 16) return;
  int row = static_cast<int>(threadIdx.x) / 4, column = static_cast<int>(threadIdx.x) % 4;
  int from = column < 3 ? 3 * row + column : 9 + row;
  viewmats[static_cast<int64_t>(blockIdx.x) * 16 + threadIdx.x] = row < 3 ? shared.sums[0][from] : 0.0f;
}

struct VjpLaunch {
  const Scene& scene;
  const Rows& rows;
  const float* slots;
  float* camera_parts;
  const s4d::RasterGrads& out;
  Stream stream;

  template <int K>
  void run() const {
    int64_t blocks = ceil_div(scene.num_gaussians, ROWS_PER_BLOCK) * scene.num_sets;
    int stride = slot_stride(scene.num_extras, out.absgrads);
    auto kernel = out.absgrads ? project_rows_vjp<K, true> : project_rows_vjp<K, false>;
    launch(kernel, blocks, ROWS_PER_BLOCK, stream, scene, rows, slots, stride, camera_parts, out);
  }
};

int64_t parts_per_view(int64_t num_gaussians) { return ceil_div(num_gaussians, ROWS_PER_BLOCK) * WARPS; }

}  // namespace

int64_t camera_parts(const s4d::RasterShape& shape) {
  return shape.num_sets * shape.num_views * parts_per_view(shape.num_gaussians) * CAMERA_SUMS;
}

void project_vjp(const Scene& scene, const Rows& rows, const float* slots, float* parts, const s4d::RasterGrads& out,
                 Stream stream) {
  for_bases(scene.num_bases, VjpLaunch{scene, rows, slots, out.viewmats ? parts : nullptr, out, stream});
  if (out.extras && scene.num_extras) {
    int64_t values = static_cast<int64_t>(scene.num_sets) * scene.num_gaussians * scene.num_extras;
    launch(sum_extras, ceil_div(values, ROWS_PER_BLOCK), ROWS_PER_BLOCK, stream, scene, rows, slots,
           slot_stride(scene.num_extras, out.absgrads), out.extras);
  }
  if (out.viewmats)
    launch(sum_cameras, scene.all_views, ROWS_PER_BLOCK, stream, static_cast<const float*>(parts),
           parts_per_view(scene.num_gaussians), out.viewmats);
}

}  // namespace s4d_cuda
