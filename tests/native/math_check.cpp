// The templates of cuda_ext/math in double, for numeric differentiation (test_math.py). Compiled by the test.
#include "math/sh.h"
#include "math/splat.h"

namespace {

using T = double;

struct Inputs {
  s4d::Vec3<T> mean, scale;
  s4d::Quat<T> quat;
  s4d::Camera<T> camera;
};

// x: mean, quat, scale, rotation (row major), translation. K: fx, fy, skew, cx, cy and the two tangent limits.
Inputs inputs_of(const double* x, const double* K) {
  Inputs in;
  in.mean = {x[0], x[1], x[2]};
  in.quat = {x[3], x[4], x[5], x[6]};
  in.scale = {x[7], x[8], x[9]};
  for (int i = 0; i < 9; ++i) in.camera.rotation.m[i] = x[10 + i];
  in.camera.translation = {x[19], x[20], x[21]};
  in.camera.fx = K[0];
  in.camera.fy = K[1];
  in.camera.skew = K[2];
  in.camera.cx = K[3];
  in.camera.cy = K[4];
  in.camera.limit_x = K[5];
  in.camera.limit_y = K[6];
  return in;
}

}  // namespace

extern "C" void splat_forward(const double* x, const double* K, float eps2d, double* out) {
  Inputs in = inputs_of(x, K);
  s4d::Projection<T> r = s4d::project_axes(in.camera, in.mean, in.quat, in.scale);
  s4d::Ellipse<T> e = s4d::ellipse(in.camera, r, eps2d);
  const double all[7] = {e.u, e.v, e.depth, e.conic.a, e.conic.b, e.conic.c, s4d::antialias(r, eps2d).factor};
  for (int i = 0; i < 7; ++i) out[i] = all[i];
}

extern "C" void splat_backward(const double* x, const double* K, float eps2d, const double* v_out, double* v_x) {
  Inputs in = inputs_of(x, K);
  s4d::Projection<T> r = s4d::project_axes(in.camera, in.mean, in.quat, in.scale);
  s4d::Ellipse<T> e = s4d::ellipse(in.camera, r, eps2d);
  s4d::EllipseGrad<T> v = {v_out[0], v_out[1], v_out[2], {v_out[3], v_out[4], v_out[5]}, v_out[6]};
  s4d::SplatGrad<T> g = s4d::splat_vjp(in.camera, in.mean, in.quat, in.scale, r, e.conic, v, eps2d);
  const double front[10] = {g.mean.x, g.mean.y, g.mean.z,  g.quat.w,  g.quat.x,
                            g.quat.y, g.quat.z, g.scale.x, g.scale.y, g.scale.z};
  for (int i = 0; i < 10; ++i) v_x[i] = front[i];
  for (int i = 0; i < 9; ++i) v_x[10 + i] = g.rotation.m[i];
  v_x[19] = g.translation.x;
  v_x[20] = g.translation.y;
  v_x[21] = g.translation.z;
}

extern "C" void sh_bases(const double* direction, int num_bases, double* out) {
  s4d::sh_basis(s4d::Vec3<T>{direction[0], direction[1], direction[2]}, num_bases, out);
}
