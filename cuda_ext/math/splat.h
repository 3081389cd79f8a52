// One Gaussian seen by one camera: an ellipse in the image, and its gradient back.
#pragma once

#include "camera.h"
#include "covar.h"

namespace S4D_NS {

constexpr float ALPHA_MAX = 0.999f;
constexpr float ALPHA_MIN = 1.0f / 255.0f;
constexpr float TRANSMITTANCE_MIN = 1e-4f;
constexpr float COVERAGE_MIN = 1e-3f;  // below it, expected depth is 0
constexpr float LOG2_E = 1.44269504088896f;
constexpr float LN_2 = 0.693147180559945f;

template <class T>
struct Conic {
  T a, b, c;  // q = a dx^2 + 2 b dx dy + c dy^2
};

template <class T>
struct Ellipse {
  T u, v, depth;
  T var_x, var_y;  // of the image covariance
  Conic<T> conic;
};

// The rows of (Jacobian x axes): 2x3 "square root" of the image covariance, with what led to it.
template <class T>
struct Projection {
  Vec3<T> p;
  Tangents<T> tangents;
  Jacobian<T> J;
  Mat3<T> turn, axes;  // matrix of the quaternion; rotation x turn
  Vec3<T> half_x, half_y;
};

template <class T>
S4D_HD Vec3<T> times_axes(const Vec3<T>& r, const Mat3<T>& axes, const Vec3<T>& scale) {
  Vec3<T> h = mul_t(axes, r);
  return {h.x * scale.x, h.y * scale.y, h.z * scale.z};
}

template <class T>
S4D_HD Projection<T> project_axes(const Camera<T>& cam, const Vec3<T>& mean, const Quat<T>& quat,
                                  const Vec3<T>& scale) {
  Projection<T> r;
  r.p = mul(cam.rotation, mean);
  r.p = {r.p.x + cam.translation.x, r.p.y + cam.translation.y, r.p.z + cam.translation.z};
  r.tangents = tangents(cam, r.p);
  r.J = jacobian(cam, r.tangents);
  r.turn = matrix_from_quat(quat);
  r.axes = mul(cam.rotation, r.turn);
  r.half_x = times_axes(r.J.x, r.axes, scale);
  r.half_y = times_axes(r.J.y, r.axes, scale);
  return r;
}

template <class T>
S4D_HD Ellipse<T> ellipse(const Camera<T>& cam, const Projection<T>& r, float eps2d) {
  Ellipse<T> e;
  e.u = fma(cam.fx, r.tangents.x, fma(cam.skew, r.tangents.y, cam.cx));
  e.v = fma(cam.fy, r.tangents.y, cam.cy);
  e.depth = r.p.z;
  T xx = dot(r.half_x, r.half_x), xy = dot(r.half_x, r.half_y), yy = dot(r.half_y, r.half_y), eps(eps2d);
  // |x cross y|^2 = xx yy - xy^2 without its cancellation: long thin ellipses keep their short axis.
  Vec3<T> n = cross(r.half_x, r.half_y);
  T inv_det = T(1.0f) / fma(eps, xx + yy + eps, dot(n, n));
  e.var_x = xx + eps;
  e.var_y = yy + eps;
  e.conic = {e.var_y * inv_det, -(xy * inv_det), e.var_x * inv_det};
  return e;
}

// Anti-aliasing: what is left of the peak once eps2d has widened the ellipse, sqrt(det / det_with_eps).
template <class T>
struct Antialias {
  T factor, wide;  // wide = det_with_eps
  Vec3<T> n;       // half_x cross half_y; |n|^2 = det
};

template <class T>
S4D_HD Antialias<T> antialias(const Projection<T>& r, float eps2d) {
  Antialias<T> a;
  a.n = cross(r.half_x, r.half_y);
  T det = dot(a.n, a.n), eps(eps2d);
  a.wide = fma(eps, dot(r.half_x, r.half_x) + dot(r.half_y, r.half_y) + eps, det);
  a.factor = sqrt(det / a.wide);
  return a;
}

// Adds to the gradients by the half axes that of the factor. In terms of n, and not of det, it stays finite at det = 0.
template <class T>
S4D_HD void antialias_vjp(const Projection<T>& r, float eps2d, T v_factor, Vec3<T>& v_x, Vec3<T>& v_y) {
  Antialias<T> a = antialias(r, eps2d);
  T length = sqrt(max(dot(a.n, a.n), T(1e-30f)));
  T along = v_factor * (T(1.0f) - a.factor * a.factor) / (sqrt(a.wide) * length);
  T shrink = -(v_factor * a.factor * T(eps2d) / a.wide);
  Vec3<T> v_n = {along * a.n.x, along * a.n.y, along * a.n.z};
  Vec3<T> x = cross(r.half_y, v_n), y = cross(v_n, r.half_x);
  v_x = {v_x.x + fma(shrink, r.half_x.x, x.x), v_x.y + fma(shrink, r.half_x.y, x.y),
         v_x.z + fma(shrink, r.half_x.z, x.z)};
  v_y = {v_y.x + fma(shrink, r.half_y.x, y.x), v_y.y + fma(shrink, r.half_y.y, y.y),
         v_y.z + fma(shrink, r.half_y.z, y.z)};
}

// Gradients by the ellipse; v_conic.b counts both off-diagonal entries; v_factor is that of the anti-aliasing.
template <class T>
struct EllipseGrad {
  T v_u, v_v, v_depth;
  Conic<T> v_conic;
  T v_factor;
};

template <class T>
struct SplatGrad {
  Vec3<T> mean, scale;
  Quat<T> quat;
  Mat3<T> rotation;  // by the camera
  Vec3<T> translation;
};

// Gradients by a Gaussian and its camera from those by its ellipse. `eps2d` > 0 only where anti-aliasing is on.
template <class T>
S4D_HD SplatGrad<T> splat_vjp(const Camera<T>& cam, const Vec3<T>& mean, const Quat<T>& quat, const Vec3<T>& scale,
                              const Projection<T>& r, const Conic<T>& conic, const EllipseGrad<T>& v,
                              float antialias_eps2d) {
  const Conic<T>& v_conic = v.v_conic;
  // v_covar = -K v_K K, with K = [a b; b c] and v_K = [v_a v_b/2; v_b/2 v_c].
  T a = conic.a, b = conic.b, c = conic.c, h = T(0.5f) * v_conic.b;
  T k00 = fma(v_conic.a, a, h * b), k01 = fma(v_conic.a, b, h * c);
  T k10 = fma(h, a, v_conic.c * b), k11 = fma(h, b, v_conic.c * c);
  T g00 = fma(a, k00, b * k10), g01 = fma(a, k01, b * k11), g11 = fma(b, k01, c * k11), minus2(-2.0f);
  Vec3<T> x = r.half_x, y = r.half_y;
  Vec3<T> v_x = {minus2 * fma(g00, x.x, g01 * y.x), minus2 * fma(g00, x.y, g01 * y.y),
                 minus2 * fma(g00, x.z, g01 * y.z)};
  Vec3<T> v_y = {minus2 * fma(g01, x.x, g11 * y.x), minus2 * fma(g01, x.y, g11 * y.y),
                 minus2 * fma(g01, x.z, g11 * y.z)};
  if (antialias_eps2d > 0.0f) antialias_vjp(r, antialias_eps2d, v.v_factor, v_x, v_y);
  Vec3<T> sx = {v_x.x * scale.x, v_x.y * scale.y, v_x.z * scale.z};
  Vec3<T> sy = {v_y.x * scale.x, v_y.y * scale.y, v_y.z * scale.z};
  Jacobian<T> v_J = {mul(r.axes, sx), mul(r.axes, sy)};
  Vec3<T> jx = mul_t(r.axes, r.J.x), jy = mul_t(r.axes, r.J.y);  // the half axes before scaling
  SplatGrad<T> g;
  g.scale = {fma(jx.x, v_x.x, jy.x * v_y.x), fma(jx.y, v_x.y, jy.y * v_y.y), fma(jx.z, v_x.z, jy.z * v_y.z)};
  Mat3<T> v_axes = {{r.J.x.x * sx.x, r.J.x.x * sx.y, r.J.x.x * sx.z,
                     fma(r.J.x.y, sx.x, r.J.y.y * sy.x), fma(r.J.x.y, sx.y, r.J.y.y * sy.y),
                     fma(r.J.x.y, sx.z, r.J.y.y * sy.z), fma(r.J.x.z, sx.x, r.J.y.z * sy.x),
                     fma(r.J.x.z, sx.y, r.J.y.z * sy.y), fma(r.J.x.z, sx.z, r.J.y.z * sy.z)}};
  g.quat = matrix_from_quat_vjp(quat, mul_t(cam.rotation, v_axes));
  Vec3<T> v_p = camera_vjp(cam, r.p, r.tangents, v_J, v.v_u, v.v_v, v.v_depth);
  g.mean = mul_t(cam.rotation, v_p);
  g.translation = v_p;
  g.rotation = mul_bt(v_axes, r.turn);
  T p[3] = {v_p.x, v_p.y, v_p.z}, m[3] = {mean.x, mean.y, mean.z};
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) g.rotation.m[3 * i + j] = fma(p[i], m[j], g.rotation.m[3 * i + j]);
  return g;
}

// log2(alpha) before the cut-offs at (dx, dy) from the centre: conic already times -log2(e) / 2, b doubled.
template <class T>
S4D_HD T log2_alpha(T dx, T dy, T a, T b, T c, T log2_opacity) {
  return fma(dx, fma(a, dx, b * dy), fma(c * dy, dy, log2_opacity));
}

}  // namespace S4D_NS
