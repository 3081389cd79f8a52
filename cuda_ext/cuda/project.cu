// Rows to splats: cull, ellipse, colour and number of tiles in one pass, one thread a row. Culling comes before the
// coefficients are read: they are most of the bytes.
#include "footprint.h"
#include "scene.h"
#include "splat_rows.h"

namespace s4d_cuda {
namespace {

// sum over k of basis[k] sh[k], rgb, and 0.5.
template <int K>
S4D_DEVICE Vec3<float> blend_bases(const float* sh, const float* basis) {
  Vec3<float> rgb = {0.5f, 0.5f, 0.5f};
  if constexpr (K % 4 == 0) {  // whole 16-byte loads
    const float4* rows = reinterpret_cast<const float4*>(sh);
  S4D_UNROLL
    for (int k = 0; k < K; k += 4, rows += 3) {
      float4 a = rows[0], b = rows[1], c = rows[2];
      rgb.x = fma(a.x, basis[k], fma(a.w, basis[k + 1], fma(b.z, basis[k + 2], fma(c.y, basis[k + 3], rgb.x))));
      rgb.y = fma(a.y, basis[k], fma(b.x, basis[k + 1], fma(b.w, basis[k + 2], fma(c.z, basis[k + 3], rgb.y))));
      rgb.z = fma(a.z, basis[k], fma(b.y, basis[k + 1], fma(c.x, basis[k + 2], fma(c.w, basis[k + 3], rgb.z))));
    }
  } else {
    S4D_UNROLL
    for (int k = 0; k < K; ++k) {
      rgb.x = fma(sh[3 * k], basis[k], rgb.x);
      rgb.y = fma(sh[3 * k + 1], basis[k], rgb.y);
      rgb.z = fma(sh[3 * k + 2], basis[k], rgb.z);
    }
  }
  return rgb;
}

// Half extents of {alpha >= 1 / 255}; false if nothing of the splat can be seen. Phrased so that NaN fails.
S4D_DEVICE bool set_ellipse(const Scene& s, const Ellipse<float>& e, float opacity, Stamp& stamp, float2& radii) {
  if (!(opacity >= ALPHA_MIN && opacity < 1e30f)) return false;
  stamp.log2_opacity = ::log2f(opacity);
  float reach = max(2.0f * LN_2 * (stamp.log2_opacity - LOG2_ALPHA_MIN), 0.0f);
  radii = make_float2(::sqrtf(reach * e.var_x), ::sqrtf(reach * e.var_y));
  bool inside = e.u + radii.x >= 0.5f && e.u - radii.x <= s.width - 0.5f && e.v + radii.y >= 0.5f &&
                e.v - radii.y <= s.height - 0.5f;
  bool finite = radii.x < 1e18f && radii.y < 1e18f && e.conic.a > 0.0f && e.conic.c > 0.0f && e.conic.b * 0.0f == 0.0f;
  stamp.u = e.u;
  stamp.v = e.v;
  stamp.a = e.conic.a * (-0.5f * LOG2_E);
  stamp.b = e.conic.b * -LOG2_E;
  stamp.c = e.conic.c * (-0.5f * LOG2_E);
  stamp.depth = e.depth;
  return inside && finite;
}

// False for a colour that is not finite.
template <int K>
S4D_DEVICE bool set_color(const Scene& s, const Camera<float>& cam, const Vec3<float>& mean, int64_t gaussian,
                          Stamp& stamp) {
  float basis[MAX_BASES];
  sh_basis(view_direction(cam, mean), K, basis);
  Vec3<float> rgb = blend_bases<K>(s.in.sh + gaussian * (3 * K), basis);
  stamp.flags = (rgb.x < 0.0f ? 1u : 0u) | (rgb.y < 0.0f ? 2u : 0u) | (rgb.z < 0.0f ? 4u : 0u);
  stamp.red = max(rgb.x, 0.0f);
  stamp.green = max(rgb.y, 0.0f);
  stamp.blue = max(rgb.z, 0.0f);
  return (rgb.x + rgb.y + rgb.z) * 0.0f == 0.0f;
}

template <int K>
S4D_DEVICE bool make_stamp(const Scene& s, int64_t view, int64_t gaussian, Stamp& stamp, float2& radii) {
  if (s.in.ids[gaussian] < 0) return false;
  Camera<float> cam = view_camera(s, view);
  float z = dot(row(cam.rotation, 2), load3(s.in.means + gaussian * 3)) + cam.translation.z;
  if (!(z > s.near && z < s.far && z > 0.0f)) return false;
  Inputs g = load_inputs(s, gaussian);
  Projection<float> p = project_axes(cam, g.mean, g.quat, g.scale);
  stamp.factor = s.antialiased ? antialias(p, s.eps2d).factor : 1.0f;
  if (!set_ellipse(s, ellipse(cam, p, s.eps2d), s.in.opacities[gaussian] * stamp.factor, stamp, radii)) return false;
  return set_color<K>(s, cam, g.mean, gaussian, stamp);
}

template <int K>
__global__ void __launch_bounds__(ROWS_PER_BLOCK) project_rows(Scene s, Rows rows, float2* radii_out) {
  int blocks_per_view = (s.num_gaussians + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK;
  int64_t view = blockIdx.x / blocks_per_view;
  int n = static_cast<int>(blockIdx.x % blocks_per_view) * ROWS_PER_BLOCK + static_cast<int>(threadIdx.x);
  if (n >= s.num_gaussians) return;
  int64_t index = view * s.num_gaussians + n, gaussian = view / s.num_views * s.num_gaussians + n;
  Stamp stamp;
  float2 radii = make_float2(0.0f, 0.0f);
  bool drawn = make_stamp<K>(s, view, gaussian, stamp, radii);
  uint32_t count = 0;
  if (drawn) {
    Footprint f = footprint(stamp, radii.x, radii.y, s.height);
    for (int y = first_tile_row(f); y < end_tile_row(f); ++y) count += row_spans(f, y, s.tiles_x).size();
    rows.stamps[index] = stamp;
    rows.radii[index] = radii;
  }
  uint64_t depth = 0;
  if (count) depth = __float_as_uint(stamp.depth);
  uint64_t place = static_cast<uint64_t>(count ? view : s.all_views) << DEPTH_BITS;
  rows.keys[index] = place | depth;
  rows.rows[index] = static_cast<uint32_t>(index);
  rows.counts[index] = count;
  if (radii_out) radii_out[index] = drawn ? radii : make_float2(0.0f, 0.0f);
}

struct ProjectLaunch {
  const Scene& scene;
  const Rows& rows;
  float* radii;
  Stream stream;

  template <int K>
  void run() const {
    int64_t blocks = ceil_div(scene.num_gaussians, ROWS_PER_BLOCK) * scene.all_views;
    launch(project_rows<K>, blocks, ROWS_PER_BLOCK, stream, scene, rows, reinterpret_cast<float2*>(radii));
  }
};

}  // namespace

void project(const Scene& scene, const Rows& rows, float* radii, Stream stream) {
  for_bases(scene.num_bases, ProjectLaunch{scene, rows, radii, stream});
}

}  // namespace s4d_cuda
