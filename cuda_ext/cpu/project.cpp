// Gaussians of one view to splats (cull, ellipse, colour), and the gradients back to the Gaussians and the camera.
#include "../math/sh.h"
#include "../math/splat.h"
#include "simd.h"
#include "stages.h"

namespace S4D_NS {
namespace {

using s4d::Splat;
using s4d::View;

constexpr int MAX_BASES = 16;

// Element `offset` of the rows index[0 .. WIDTH) of an array with `stride` floats a row.
struct Rows {
  int32_t row[WIDTH];

  Lanes load(const float* base, int stride, int offset) const {
    alignas(64) int32_t index[WIDTH];
    for (int i = 0; i < WIDTH; ++i) index[i] = row[i] * stride;
    return gather(base + offset, index);
  }
  Vec3<Lanes> load3(const float* base) const { return {load(base, 3, 0), load(base, 3, 1), load(base, 3, 2)}; }
  Quat<Lanes> load4(const float* base) const {
    return {load(base, 4, 0), load(base, 4, 1), load(base, 4, 2), load(base, 4, 3)};
  }
};

Vec3<Lanes> view_direction(const Camera<Lanes>& cam, const Vec3<Lanes>& mean) {
  Vec3<Lanes> center = mul_t(cam.rotation, cam.translation);  // minus the camera's place
  Vec3<Lanes> d = {mean.x + center.x, mean.y + center.y, mean.z + center.z};
  Lanes inv = Lanes(1.0f) / sqrt(max(dot(d, d), Lanes(1e-24f)));
  return {d.x * inv, d.y * inv, d.z * inv};
}

struct Columns {  // fields of an Ellipse, to be read lane by lane
  alignas(64) float u[WIDTH], v[WIDTH], depth[WIDTH], var_x[WIDTH], var_y[WIDTH], a[WIDTH], b[WIDTH], c[WIDTH];
  alignas(64) float fade[WIDTH];  // anti-aliasing

  void store(const Ellipse<Lanes>& e, Lanes factor) {
    factor.store(fade);
    e.u.store(u);
    e.v.store(v);
    e.depth.store(depth);
    e.var_x.store(var_x);
    e.var_y.store(var_y);
    e.conic.a.store(a);
    e.conic.b.store(b);
    e.conic.c.store(c);
  }
};

// Fills `s` (all but its colour) from lane i; false if nothing of it can be seen. Phrased so that NaN fails.
bool make_splat(const View& view, const Columns& e, int i, int row, Splat& s) {
  float opacity = view.opacities[row] * e.fade[i];
  if (view.ids[row] < 0 || !(opacity >= ALPHA_MIN && opacity < 1e30f)) return false;
  s.log2_opacity = __builtin_log2f(opacity);
  float reach = 2.0f * LN_2 * (s.log2_opacity - __builtin_log2f(ALPHA_MIN));
  reach = reach > 0.0f ? reach : 0.0f;
  s.radius_x = __builtin_sqrtf(reach * e.var_x[i]);
  s.radius_y = __builtin_sqrtf(reach * e.var_y[i]);
  s.u = e.u[i];
  s.v = e.v[i];
  bool inside = s.u + s.radius_x >= 0.5f && s.u - s.radius_x <= view.width - 0.5f && s.v + s.radius_y >= 0.5f &&
                s.v - s.radius_y <= view.height - 0.5f;
  bool finite = s.radius_x < 1e18f && s.radius_y < 1e18f && e.a[i] > 0.0f && e.c[i] > 0.0f && e.b[i] * 0.0f == 0.0f;
  if (!(inside && finite)) return false;
  s.a = e.a[i] * (-0.5f * LOG2_E);
  s.b = e.b[i] * -LOG2_E;
  s.c = e.c[i] * (-0.5f * LOG2_E);
  s.depth = e.depth[i];
  s.row = row;
  return true;
}

// Four floats in the compiler's own vector type: a colour and one float of padding.
typedef float Four __attribute__((vector_size(16)));

// sum over k of basis[k] sh[k], rgb. Reads whole rows of three floats as four, but never past the last coefficient.
inline Four blend_bases(const float* sh, const float (*basis)[WIDTH], int num_bases, int lane) {
  Four even = {0.5f, 0.5f, 0.5f, 0.0f}, odd = {};
  int last = num_bases - 1;
  for (int k = 0; k < last; ++k) {
    Four row;
    __builtin_memcpy(&row, sh + 3 * k, sizeof row);
    (k & 1 ? odd : even) += row * basis[k][lane];
  }
  Four row = {sh[3 * last], sh[3 * last + 1], sh[3 * last + 2], 0.0f};
  return even + (odd + row * basis[last][lane]);
}

// Memory that will be read soon.
inline void prefetch(const float* data, int num_floats) {
  for (int i = 0; i < num_floats; i += 16) __builtin_prefetch(data + i);
}

// Colours of splats[0 .. count), count <= WIDTH; a colour that is not finite puts its Gaussian out.
void color_splats(const View& view, const Camera<Lanes>& cam, Splat* splats, int count) {
  Rows rows;
  for (int i = 0; i < WIDTH; ++i) rows.row[i] = splats[i < count ? i : count - 1].row;
  Lanes basis[MAX_BASES];
  alignas(64) float columns[MAX_BASES][WIDTH];
  sh_basis(view_direction(cam, rows.load3(view.means)), view.num_bases, basis);
  for (int k = 0; k < view.num_bases; ++k) basis[k].store(columns[k]);
  for (int i = 0; i < count; ++i) {
    Splat& s = splats[i];
    Four rgb = blend_bases(view.sh + static_cast<int64_t>(s.row) * view.num_bases * 3, columns, view.num_bases, i);
    s.clamped = 0;
    for (int c = 0; c < 3; ++c) {
      s.rgb[c] = rgb[c] > 0.0f ? rgb[c] : 0.0f;
      if (rgb[c] < 0.0f) s.clamped |= 1u << c;
    }
    bool finite = (rgb[0] + rgb[1] + rgb[2]) * 0.0f == 0.0f;
    if (!finite) s.log2_opacity = -1000.0f;
    if (view.radii && finite) {
      view.radii[2 * s.row] = s.radius_x;
      view.radii[2 * s.row + 1] = s.radius_y;
    }
  }
}

}  // namespace

int project(const s4d::View& view, int begin, int end, s4d::Splat* out) {
  Camera<Lanes> cam = load_camera<Lanes>(view.viewmat, view.K, view.width, view.height);
  int count = 0;
  Columns columns;
  if (view.radii) __builtin_memset(view.radii + 2 * begin, 0, 2 * sizeof(float) * (end - begin));
  for (int first = begin; first < end; first += WIDTH) {
    Rows rows;
    for (int i = 0; i < WIDTH; ++i) rows.row[i] = first + i < end ? first + i : end - 1;
    Vec3<Lanes> mean = rows.load3(view.means);
    Lanes z = dot(row(cam.rotation, 2), mean) + cam.translation.z;
    unsigned live = bits((z > Lanes(view.near)) & (z < Lanes(view.far)));
    if (end - first < WIDTH) live &= (1u << (end - first)) - 1u;
    if (!live) continue;
    Projection<Lanes> p = project_axes(cam, mean, rows.load4(view.quats), rows.load3(view.scales));
    columns.store(ellipse(cam, p, view.eps2d), view.antialiased ? antialias(p, view.eps2d).factor : Lanes(1.0f));
    for (; live; live &= live - 1) {
      int i = __builtin_ctz(live);
      count += make_splat(view, columns, i, first + i, out[count]);
    }
  }
  for (int first = 0; first < count; first += WIDTH) {
    for (int i = first + WIDTH; i < first + 2 * WIDTH && i < count; ++i)
      prefetch(view.sh + static_cast<int64_t>(out[i].row) * view.num_bases * 3, view.num_bases * 3);
    color_splats(view, cam, out + first, count - first < WIDTH ? count - first : WIDTH);
  }
  return count;
}

namespace {

struct Sums {  // the slots of up to WIDTH splats, added up, one column a splat
  alignas(64) float fixed[s4d::FIXED_SUMS][WIDTH];

  // Adds up `count` slots from `slot` on for the i-th splat; `v_extras` and `abs_sums` may be null.
  void add(int i, const float* slot, uint32_t count, int stride, int num_extras, float* v_extras, float* abs_sums) {
    Four first = {}, second = {};
    float blue = 0.0f, depth = 0.0f;
    for (uint32_t k = 0; k < count; ++k, slot += stride) {
      Four a, b;
      __builtin_memcpy(&a, slot, sizeof a);
      __builtin_memcpy(&b, slot + 4, sizeof b);
      first += a;
      second += b;
      blue += slot[8];
      depth += slot[9];
      if (v_extras)
        for (int j = 0; j < num_extras; ++j) v_extras[j] += slot[s4d::FIXED_SUMS + j];
      if (abs_sums)
        for (int j = 0; j < s4d::ABS_SUMS; ++j) abs_sums[j] += slot[s4d::FIXED_SUMS + num_extras + j];
    }
    for (int j = 0; j < 4; ++j) {
      fixed[j][i] = first[j];
      fixed[4 + j][i] = second[j];
    }
    fixed[8][i] = blue;
    fixed[9][i] = depth;
  }
  Lanes operator[](int j) const { return Lanes::load(fixed[j]); }
};

template <int N>
void add_rows(float* out, const Splat* splats, int count, const Lanes (&values)[N]) {
  if (!out) return;
  alignas(64) float columns[N][WIDTH];
  for (int j = 0; j < N; ++j) values[j].store(columns[j]);
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < N; ++j) out[static_cast<int64_t>(splats[i].row) * N + j] += columns[j][i];
}

void add_sh(const View& view, const Camera<Lanes>& cam, const Vec3<Lanes>& mean, const Splat* splats, int count,
            const Sums& sums, float* out) {
  if (!out) return;
  alignas(64) float columns[MAX_BASES][WIDTH];
  Lanes basis[MAX_BASES];
  sh_basis(view_direction(cam, mean), view.num_bases, basis);
  for (int k = 0; k < view.num_bases; ++k) basis[k].store(columns[k]);
  for (int i = 0; i < count; ++i) {
    float v_rgb[3];
    for (int c = 0; c < 3; ++c) v_rgb[c] = splats[i].clamped >> c & 1u ? 0.0f : sums.fixed[6 + c][i];
    float* row = out + static_cast<int64_t>(splats[i].row) * view.num_bases * 3;
    for (int k = 0; k < view.num_bases; ++k)
      for (int c = 0; c < 3; ++c) row[3 * k + c] += columns[k][i] * v_rgb[c];
  }
}

void add_viewmat(float* out, const SplatGrad<Lanes>& g, int count) {
  if (!out) return;
  alignas(64) float lane[WIDTH];
  for (int i = 0; i < WIDTH; ++i) lane[i] = static_cast<float>(i);
  Mask live = Lanes::load(lane) < Lanes(static_cast<float>(count));
  for (int j = 0; j < 9; ++j) out[j] += sum(select(live, g.rotation.m[j], Lanes(0.0f)));
  const Lanes translation[3] = {g.translation.x, g.translation.y, g.translation.z};
  for (int j = 0; j < 3; ++j) out[9 + j] += sum(select(live, translation[j], Lanes(0.0f)));
}

struct Shape {  // of up to WIDTH splats
  alignas(64) float a[WIDTH], b[WIDTH], c[WIDTH], opacity[WIDTH];
};

void project_vjp_lanes(const View& view, const Camera<Lanes>& cam, const Splat* splats, int count,
                       const uint32_t* first_slots, const float* slots, const s4d::ChunkGrads& out) {
  Rows rows;
  Sums sums;
  Shape shape;
  int stride = s4d::slot_floats(view, out.absgrads != nullptr);
  for (int i = 0; i < WIDTH; ++i) {
    const Splat& s = splats[i < count ? i : count - 1];
    rows.row[i] = s.row;
    shape.a[i] = s.a;
    shape.b[i] = s.b;
    shape.c[i] = s.c;
    shape.opacity[i] = view.opacities[s.row];
    int64_t row = s.row;
    bool own = i < count;  // the lanes past the end repeat the last splat, and write nothing
    uint32_t first = own ? first_slots[i] : 0, num_slots = own ? first_slots[i + 1] - first : 0;
    sums.add(i, slots + static_cast<int64_t>(first) * stride, num_slots, stride, view.num_extras, own && out.rows.extras ? out.rows.extras + row * view.num_extras : nullptr,
             own && out.absgrads ? out.absgrads + row * s4d::ABS_SUMS : nullptr);
  }
  Conic<Lanes> conic = {Lanes::load(shape.a) * Lanes(-2.0f * LN_2), Lanes::load(shape.b) * Lanes(-LN_2),
                        Lanes::load(shape.c) * Lanes(-2.0f * LN_2)};
  Vec3<Lanes> mean = rows.load3(view.means), scale = rows.load3(view.scales);
  Quat<Lanes> quat = rows.load4(view.quats);
  Projection<Lanes> projection = project_axes(cam, mean, quat, scale);
  // Slot sums: h, h dx, h dy, h dx dx, h dx dy, h dy dy with h = alpha dL/dalpha, then colours and depth.
  EllipseGrad<Lanes> v;
  v.v_u = fma(conic.a, sums[1], conic.b * sums[2]);
  v.v_v = fma(conic.b, sums[1], conic.c * sums[2]);
  v.v_depth = sums[9];
  v.v_conic = {Lanes(-0.5f) * sums[3], -sums[4], Lanes(-0.5f) * sums[5]};
  v.v_factor = view.antialiased ? sums[0] / antialias(projection, view.eps2d).factor : Lanes(0.0f);
  SplatGrad<Lanes> g =
      splat_vjp(cam, mean, quat, scale, projection, conic, v, view.antialiased ? view.eps2d : 0.0f);
  const Lanes v_mean[3] = {g.mean.x, g.mean.y, g.mean.z}, v_scale[3] = {g.scale.x, g.scale.y, g.scale.z};
  const Lanes v_quat[4] = {g.quat.w, g.quat.x, g.quat.y, g.quat.z};
  const Lanes v_opacity[1] = {sums[0] / Lanes::load(shape.opacity)};
  add_rows(out.rows.means, splats, count, v_mean);
  add_rows(out.rows.scales, splats, count, v_scale);
  add_rows(out.rows.quats, splats, count, v_quat);
  add_rows(out.rows.opacities, splats, count, v_opacity);
  add_sh(view, cam, mean, splats, count, sums, out.rows.sh);
  add_viewmat(out.viewmat, g, count);
}

}  // namespace

void project_vjp(const s4d::View& view, const s4d::Splat* splats, int count, const uint32_t* first_slots,
                 const float* slots, const s4d::ChunkGrads& out) {
  Camera<Lanes> cam = load_camera<Lanes>(view.viewmat, view.K, view.width, view.height);
  for (int first = 0; first < count; first += WIDTH)
    project_vjp_lanes(view, cam, splats + first, count - first < WIDTH ? count - first : WIDTH, first_slots + first,
                      slots, out);
}

}  // namespace S4D_NS
