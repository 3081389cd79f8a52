// What projection and its gradient share: a row's inputs, its camera, the view direction.
#pragma once

#include "scene.h"

#include "../math/sh.h"

namespace s4d_cuda {

constexpr int ROWS_PER_BLOCK = 128;
constexpr int MAX_BASES = 16;

struct Inputs {  // of one Gaussian
  Vec3<float> mean, scale;
  Quat<float> quat;
};

S4D_DEVICE Vec3<float> load3(const float* p) { return {p[0], p[1], p[2]}; }

// `gaussian` counts over all sets.
S4D_DEVICE Inputs load_inputs(const Scene& s, int64_t gaussian) {
  const float4 q = *reinterpret_cast<const float4*>(s.in.quats + gaussian * 4);
  return {load3(s.in.means + gaussian * 3), load3(s.in.scales + gaussian * 3), {q.x, q.y, q.z, q.w}};
}

S4D_DEVICE Camera<float> view_camera(const Scene& s, int64_t view) {
  return load_camera<float>(s.in.viewmats + view * 16, s.in.Ks + view * 9, s.width, s.height);
}

S4D_DEVICE Vec3<float> view_direction(const Camera<float>& cam, const Vec3<float>& mean) {
  Vec3<float> center = mul_t(cam.rotation, cam.translation);  // minus the camera's place
  Vec3<float> d = {mean.x + center.x, mean.y + center.y, mean.z + center.z};
  float inv = 1.0f / sqrt(max(dot(d, d), 1e-24f));
  return {d.x * inv, d.y * inv, d.z * inv};
}

// Runs f.run<bases>() for the number of bases of the scene.
template <class F>
void for_bases(int num_bases, const F& f) {
  switch (num_bases) {
    case 1:
      return f.template run<1>();
    case 4:
      return f.template run<4>();
    case 9:
      return f.template run<9>();
    default:
      return f.template run<16>();
  }
}

}  // namespace s4d_cuda
