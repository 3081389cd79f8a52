// Real spherical-harmonics bases up to degree 3, in the 3D Gaussian splatting convention (scene4d/geometry/sh.py).
#pragma once

#include "linalg.h"

namespace S4D_NS {

// Writes num_bases (1, 4, 9 or 16) values at the unit direction d. Linear in the coefficients: it is its own vjp.
template <class T>
S4D_HD void sh_basis(const Vec3<T>& d, int num_bases, T* out) {
  out[0] = T(0.28209479177387814);
  if (num_bases <= 1) return;
  T x = d.x, y = d.y, z = d.z;
  out[1] = T(-0.4886025119029199) * y;
  out[2] = T(0.4886025119029199) * z;
  out[3] = T(-0.4886025119029199) * x;
  if (num_bases <= 4) return;
  T xx = x * x, yy = y * y, zz = z * z;
  out[4] = T(1.0925484305920792) * x * y;
  out[5] = T(-1.0925484305920792) * y * z;
  out[6] = T(0.31539156525252005) * (T(2.0f) * zz - xx - yy);
  out[7] = T(-1.0925484305920792) * x * z;
  out[8] = T(0.5462742152960396) * (xx - yy);
  if (num_bases <= 9) return;
  out[9] = T(-0.5900435899266435) * y * (T(3.0f) * xx - yy);
  out[10] = T(2.890611442640554) * x * y * z;
  out[11] = T(-0.4570457994644658) * y * (T(4.0f) * zz - xx - yy);
  out[12] = T(0.3731763325901154) * z * (T(2.0f) * zz - T(3.0f) * xx - T(3.0f) * yy);
  out[13] = T(-0.4570457994644658) * x * (T(4.0f) * zz - xx - yy);
  out[14] = T(1.445305721320277) * z * (xx - yy);
  out[15] = T(-0.5900435899266435) * x * (xx - T(3.0f) * yy);
}

}  // namespace S4D_NS
