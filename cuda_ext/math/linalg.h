// 3-vectors and 3x3 matrices of lanes, row major.
#pragma once

#include "lane.h"

namespace S4D_NS {

template <class T>
struct Vec3 {
  T x, y, z;
};

template <class T>
struct Mat3 {
  T m[9];
};

template <class T>
S4D_HD T dot(const Vec3<T>& a, const Vec3<T>& b) {
  return fma(a.x, b.x, fma(a.y, b.y, a.z * b.z));
}

template <class T>
S4D_HD Vec3<T> cross(const Vec3<T>& a, const Vec3<T>& b) {
  return {fma(a.y, b.z, -(a.z * b.y)), fma(a.z, b.x, -(a.x * b.z)), fma(a.x, b.y, -(a.y * b.x))};
}

template <class T>
S4D_HD Vec3<T> row(const Mat3<T>& a, int i) {
  return {a.m[3 * i], a.m[3 * i + 1], a.m[3 * i + 2]};
}

template <class T>
S4D_HD Vec3<T> mul(const Mat3<T>& a, const Vec3<T>& x) {
  return {dot(row(a, 0), x), dot(row(a, 1), x), dot(row(a, 2), x)};
}

// a^T x
template <class T>
S4D_HD Vec3<T> mul_t(const Mat3<T>& a, const Vec3<T>& x) {
  const T* m = a.m;
  return {fma(m[0], x.x, fma(m[3], x.y, m[6] * x.z)), fma(m[1], x.x, fma(m[4], x.y, m[7] * x.z)),
          fma(m[2], x.x, fma(m[5], x.y, m[8] * x.z))};
}

template <class T>
S4D_HD Mat3<T> mul(const Mat3<T>& a, const Mat3<T>& b) {
  Mat3<T> r;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      r.m[3 * i + j] = fma(a.m[3 * i], b.m[j], fma(a.m[3 * i + 1], b.m[3 + j], a.m[3 * i + 2] * b.m[6 + j]));
  return r;
}

// a^T b
template <class T>
S4D_HD Mat3<T> mul_t(const Mat3<T>& a, const Mat3<T>& b) {
  Mat3<T> r;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      r.m[3 * i + j] = fma(a.m[i], b.m[j], fma(a.m[3 + i], b.m[3 + j], a.m[6 + i] * b.m[6 + j]));
  return r;
}

// a b^T
template <class T>
S4D_HD Mat3<T> mul_bt(const Mat3<T>& a, const Mat3<T>& b) {
  Mat3<T> r;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) r.m[3 * i + j] = dot(row(a, i), row(b, j));
  return r;
}

}  // namespace S4D_NS
