// Rotation matrices of quaternions (w x y z, any length) and their gradients.
#pragma once

#include "linalg.h"

namespace S4D_NS {

template <class T>
struct Quat {
  T w, x, y, z;
};

// 1 / |q|, and 0 for a zero quaternion, which then reads as the identity and gets no gradient.
template <class T>
S4D_HD T inverse_norm(const Quat<T>& q) {
  T square = fma(q.w, q.w, fma(q.x, q.x, fma(q.y, q.y, q.z * q.z)));
  auto zero = square <= T(1e-24f);
  return select(zero, T(0.0f), T(1.0f) / sqrt(select(zero, T(1.0f), square)));
}

template <class T>
S4D_HD Mat3<T> matrix_from_quat(const Quat<T>& q) {
  T inv = inverse_norm(q), two(2.0f), one(1.0f);
  T w = q.w * inv, x = q.x * inv, y = q.y * inv, z = q.z * inv;
  T xx = x * x, yy = y * y, zz = z * z, xy = x * y, xz = x * z, yz = y * z, wx = w * x, wy = w * y, wz = w * z;
  return {{one - two * (yy + zz), two * (xy - wz), two * (xz + wy), two * (xy + wz), one - two * (xx + zz),
           two * (yz - wx), two * (xz - wy), two * (yz + wx), one - two * (xx + yy)}};
}

template <class T>
S4D_HD Quat<T> matrix_from_quat_vjp(const Quat<T>& q, const Mat3<T>& v_matrix) {
  const T* v = v_matrix.m;
  T inv = inverse_norm(q), two(2.0f);
  T w = q.w * inv, x = q.x * inv, y = q.y * inv, z = q.z * inv;
  T v_w = two * (x * (v[7] - v[5]) + y * (v[2] - v[6]) + z * (v[3] - v[1]));
  T v_x = two * (w * (v[7] - v[5]) + y * (v[1] + v[3]) + z * (v[2] + v[6]) - two * x * (v[4] + v[8]));
  T v_y = two * (w * (v[2] - v[6]) + x * (v[1] + v[3]) + z * (v[5] + v[7]) - two * y * (v[0] + v[8]));
  T v_z = two * (w * (v[3] - v[1]) + x * (v[2] + v[6]) + y * (v[5] + v[7]) - two * z * (v[0] + v[4]));
  T along = fma(v_w, w, fma(v_x, x, fma(v_y, y, v_z * z)));  // the part that only changes the length
  return {(v_w - along * w) * inv, (v_x - along * x) * inv, (v_y - along * y) * inv, (v_z - along * z) * inv};
}

}  // namespace S4D_NS
