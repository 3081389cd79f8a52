// The pinhole camera (OpenCV: x right, y down, z forward) and its local affine approximation.
#pragma once

#include "linalg.h"

namespace S4D_NS {

template <class T>
struct Camera {
  Mat3<T> rotation;  // cam_from_world
  Vec3<T> translation;
  T fx, fy, skew, cx, cy;
  T limit_x, limit_y;  // tangents inside the Jacobian are clamped to these
};

// viewmat [4 4] and K [3 3], row major. The limit is 1.3 times half the field of view.
template <class T>
S4D_HD Camera<T> load_camera(const float* viewmat, const float* K, int width, int height) {
  Camera<T> cam;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) cam.rotation.m[3 * i + j] = T(viewmat[4 * i + j]);
  cam.translation = {T(viewmat[3]), T(viewmat[7]), T(viewmat[11])};
  cam.fx = T(K[0]);
  cam.skew = T(K[1]);
  cam.cx = T(K[2]);
  cam.fy = T(K[4]);
  cam.cy = T(K[5]);
  cam.limit_x = T(1.3f * 0.5f * width / K[0]);
  cam.limit_y = T(1.3f * 0.5f * height / K[4]);
  return cam;
}

// Rows of the Jacobian of the pixel by the camera-space point; the lower left entry is 0.
template <class T>
struct Jacobian {
  Vec3<T> x, y;
};

// What the Jacobian is made of.
template <class T>
struct Tangents {
  T inv_z, x, y;              // 1 / z, x / z, y / z
  T clamped_x, clamped_y;
};

template <class T>
S4D_HD Tangents<T> tangents(const Camera<T>& cam, const Vec3<T>& p) {
  Tangents<T> t;
  t.inv_z = T(1.0f) / p.z;
  t.x = p.x * t.inv_z;
  t.y = p.y * t.inv_z;
  t.clamped_x = max(min(t.x, cam.limit_x), -cam.limit_x);
  t.clamped_y = max(min(t.y, cam.limit_y), -cam.limit_y);
  return t;
}

template <class T>
S4D_HD Jacobian<T> jacobian(const Camera<T>& cam, const Tangents<T>& t) {
  return {{cam.fx * t.inv_z, cam.skew * t.inv_z, -(fma(cam.fx, t.clamped_x, cam.skew * t.clamped_y) * t.inv_z)},
          {T(0.0f), cam.fy * t.inv_z, -(cam.fy * t.clamped_y * t.inv_z)}};
}

// Gradient by the camera-space point from those by the Jacobian, the pixel (v_u, v_v) and the depth v_z.
template <class T>
S4D_HD Vec3<T> camera_vjp(const Camera<T>& cam, const Vec3<T>& p, const Tangents<T>& t, const Jacobian<T>& v_J, T v_u,
                          T v_v, T v_z) {
  T v_clamped_x = -(cam.fx * t.inv_z * v_J.x.z);
  T v_clamped_y = -(t.inv_z * fma(cam.skew, v_J.x.z, cam.fy * v_J.y.z));
  T v_tx = fma(cam.fx, v_u, select(t.x == t.clamped_x, v_clamped_x, T(0.0f)));
  T v_ty = fma(cam.skew, v_u, fma(cam.fy, v_v, select(t.y == t.clamped_y, v_clamped_y, T(0.0f))));
  T v_inv_z = fma(cam.fx, v_J.x.x, fma(cam.skew, v_J.x.y, cam.fy * v_J.y.y));
  v_inv_z = v_inv_z - fma(fma(cam.fx, t.clamped_x, cam.skew * t.clamped_y), v_J.x.z, cam.fy * t.clamped_y * v_J.y.z);
  v_inv_z = fma(v_tx, p.x, fma(v_ty, p.y, v_inv_z));
  return {v_tx * t.inv_z, v_ty * t.inv_z, v_z - v_inv_z * t.inv_z * t.inv_z};
}

}  // namespace S4D_NS
