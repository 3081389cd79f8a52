// The SIMD lane type `Lanes` of the instruction set this file is compiled for: AVX-512 (16), AVX2 + FMA (8), or four
// lanes in the compiler's own vector type (SSE2, NEON). The same operations for all, so kernels are written once.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../math/lane.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace S4D_NS {

#if defined(__AVX512F__)

constexpr int WIDTH = 16;
using Register = __m512;
struct Mask {
  __mmask16 m;
};
S4D_HD Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
S4D_HD unsigned bits(Mask a) { return a.m; }

namespace simd {
S4D_HD Register set(float x) { return _mm512_set1_ps(x); }
S4D_HD Register load(const float* p) { return _mm512_loadu_ps(p); }
S4D_HD void store(float* p, Register x) { _mm512_storeu_ps(p, x); }
S4D_HD Register fma(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }
S4D_HD Register fnma(Register a, Register b, Register c) { return _mm512_fnmadd_ps(a, b, c); }
S4D_HD Register min(Register a, Register b) { return _mm512_min_ps(a, b); }
S4D_HD Register max(Register a, Register b) { return _mm512_max_ps(a, b); }
S4D_HD Register sqrt(Register a) { return _mm512_sqrt_ps(a); }
S4D_HD Register floor(Register a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
S4D_HD Register round(Register a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
S4D_HD Register scale2(Register a, Register n) { return _mm512_scalef_ps(a, n); }
S4D_HD Register rcp_estimate(Register a) { return _mm512_rcp14_ps(a); }
S4D_HD Mask lt(Register a, Register b) { return {_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)}; }
S4D_HD Mask le(Register a, Register b) { return {_mm512_cmp_ps_mask(a, b, _CMP_LE_OQ)}; }
S4D_HD Mask eq(Register a, Register b) { return {_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ)}; }
S4D_HD Register select(Mask m, Register a, Register b) { return _mm512_mask_blend_ps(m.m, b, a); }
S4D_HD Register gather(const float* p, const int32_t* index) {
  return _mm512_i32gather_ps(_mm512_loadu_si512(index), p, 4);
}
S4D_HD float sum(Register a) { return _mm512_reduce_add_ps(a); }
}  // namespace simd

#elif defined(__AVX2__)

constexpr int WIDTH = 8;
using Register = __m256;
struct Mask {
  __m256 m;
};
S4D_HD Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.m, b.m)}; }
S4D_HD unsigned bits(Mask a) { return static_cast<unsigned>(_mm256_movemask_ps(a.m)); }

namespace simd {
S4D_HD Register set(float x) { return _mm256_set1_ps(x); }
S4D_HD Register load(const float* p) { return _mm256_loadu_ps(p); }
S4D_HD void store(float* p, Register x) { _mm256_storeu_ps(p, x); }
S4D_HD Register fma(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
S4D_HD Register fnma(Register a, Register b, Register c) { return _mm256_fnmadd_ps(a, b, c); }
S4D_HD Register min(Register a, Register b) { return _mm256_min_ps(a, b); }
S4D_HD Register max(Register a, Register b) { return _mm256_max_ps(a, b); }
S4D_HD Register sqrt(Register a) { return _mm256_sqrt_ps(a); }
S4D_HD Register floor(Register a) { return _mm256_floor_ps(a); }
S4D_HD Register round(Register a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
S4D_HD Register scale2(Register a, Register n) {  // a * 2^n for whole n >= -126
  __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
}
S4D_HD Register rcp_estimate(Register a) { return _mm256_rcp_ps(a); }
S4D_HD Mask lt(Register a, Register b) { return {_mm256_cmp_ps(a, b, _CMP_LT_OQ)}; }
S4D_HD Mask le(Register a, Register b) { return {_mm256_cmp_ps(a, b, _CMP_LE_OQ)}; }
S4D_HD Mask eq(Register a, Register b) { return {_mm256_cmp_ps(a, b, _CMP_EQ_OQ)}; }
S4D_HD Register select(Mask m, Register a, Register b) { return _mm256_blendv_ps(b, a, m.m); }
S4D_HD Register gather(const float* p, const int32_t* index) {
  return _mm256_i32gather_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)), 4);
}
S4D_HD float sum(Register a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
}  // namespace simd

#else

constexpr int WIDTH = 4;
typedef float Register __attribute__((vector_size(16)));
typedef int32_t Integers __attribute__((vector_size(16)));
struct Mask {
  Integers m;
};
S4D_HD Mask operator&(Mask a, Mask b) { return {a.m & b.m}; }
S4D_HD unsigned bits(Mask a) {
  return (a.m[0] & 1u) | (a.m[1] & 2u) | (a.m[2] & 4u) | (a.m[3] & 8u);
}

namespace simd {
S4D_HD Register set(float x) { return Register{x, x, x, x}; }
S4D_HD Register load(const float* p) {
  Register r;
  __builtin_memcpy(&r, p, sizeof r);
  return r;
}
S4D_HD void store(float* p, Register x) { __builtin_memcpy(p, &x, sizeof x); }
S4D_HD Register fma(Register a, Register b, Register c) { return a * b + c; }
S4D_HD Register fnma(Register a, Register b, Register c) { return c - a * b; }
S4D_HD Register min(Register a, Register b) { return a < b ? a : b; }
S4D_HD Register max(Register a, Register b) { return a > b ? a : b; }
S4D_HD Register sqrt(Register a) {
  for (int i = 0; i < 4; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
S4D_HD Register floor(Register a) {
  for (int i = 0; i < 4; ++i) a[i] = __builtin_floorf(a[i]);
  return a;
}
// Whole numbers below 2^22, which is all that exp2 asks for (it clamps first).
S4D_HD Register round(Register a) { return (a + 12582912.0f) - 12582912.0f; }
S4D_HD Register scale2(Register a, Register n) {
  Integers exponent = (__builtin_convertvector(n, Integers) + 127) << 23;
  Register power;
  __builtin_memcpy(&power, &exponent, sizeof power);
  return a * power;
}
S4D_HD Mask lt(Register a, Register b) { return {a < b}; }
S4D_HD Mask le(Register a, Register b) { return {a <= b}; }
S4D_HD Mask eq(Register a, Register b) { return {a == b}; }
S4D_HD Register select(Mask m, Register a, Register b) { return m.m ? a : b; }
S4D_HD Register gather(const float* p, const int32_t* index) {
  return Register{p[index[0]], p[index[1]], p[index[2]], p[index[3]]};
}
S4D_HD float sum(Register a) { return (a[0] + a[2]) + (a[1] + a[3]); }
}  // namespace simd

#endif

// A vector of WIDTH floats that the templates of math/ take for a number.
struct Lanes {
  Register v;

  Lanes() = default;
  S4D_HD explicit Lanes(Register x) : v(x) {}
  template <class S, class = std::enable_if_t<std::is_arithmetic<S>::value>>
  S4D_HD explicit Lanes(S x) : v(simd::set(static_cast<float>(x))) {}

  S4D_HD static Lanes load(const float* p) { return Lanes(simd::load(p)); }
  S4D_HD void store(float* p) const { simd::store(p, v); }
};

S4D_HD Lanes operator+(Lanes a, Lanes b) { return Lanes(a.v + b.v); }
S4D_HD Lanes operator-(Lanes a, Lanes b) { return Lanes(a.v - b.v); }
S4D_HD Lanes operator*(Lanes a, Lanes b) { return Lanes(a.v * b.v); }
S4D_HD Lanes operator/(Lanes a, Lanes b) { return Lanes(a.v / b.v); }
S4D_HD Lanes operator-(Lanes a) { return Lanes(-a.v); }
S4D_HD Mask operator<(Lanes a, Lanes b) { return simd::lt(a.v, b.v); }
S4D_HD Mask operator<=(Lanes a, Lanes b) { return simd::le(a.v, b.v); }
S4D_HD Mask operator>(Lanes a, Lanes b) { return simd::lt(b.v, a.v); }
S4D_HD Mask operator>=(Lanes a, Lanes b) { return simd::le(b.v, a.v); }
S4D_HD Mask operator==(Lanes a, Lanes b) { return simd::eq(a.v, b.v); }
S4D_HD Lanes select(Mask m, Lanes a, Lanes b) { return Lanes(simd::select(m, a.v, b.v)); }
S4D_HD Lanes fma(Lanes a, Lanes b, Lanes c) { return Lanes(simd::fma(a.v, b.v, c.v)); }
S4D_HD Lanes fnma(Lanes a, Lanes b, Lanes c) { return Lanes(simd::fnma(a.v, b.v, c.v)); }  // c - a b
S4D_HD Lanes min(Lanes a, Lanes b) { return Lanes(simd::min(a.v, b.v)); }
S4D_HD Lanes max(Lanes a, Lanes b) { return Lanes(simd::max(a.v, b.v)); }
S4D_HD Lanes sqrt(Lanes a) { return Lanes(simd::sqrt(a.v)); }
S4D_HD Lanes floor(Lanes a) { return Lanes(simd::floor(a.v)); }
S4D_HD Lanes gather(const float* p, const int32_t* index) { return Lanes(simd::gather(p, index)); }
S4D_HD float sum(Lanes a) { return simd::sum(a.v); }

// 2^x to 1e-7 (degree 5 on [-1/2, 1/2]); below 2^-120 it is 0 or 2^-120.
S4D_HD Lanes exp2(Lanes x) {
#if !defined(__AVX512F__)
  x = max(x, Lanes(-120.0f));
#endif
  Lanes n(simd::round(x.v)), f = x - n;
  Lanes p = fma(f, Lanes(0.001327645643f), Lanes(0.009675541212f));
  p = fma(p, f, Lanes(0.05550713322f));
  p = fma(p, f, Lanes(0.2402211973f));
  p = fma(p, f, Lanes(0.693146967f));
  p = fma(p, f, Lanes(1.000000072f));
  return Lanes(simd::scale2(p.v, n.v));
}

// 1 / x to about 1e-7.
S4D_HD Lanes reciprocal(Lanes x) {
#if defined(__AVX512F__) || defined(__AVX2__)
  Lanes r(simd::rcp_estimate(x.v));
  return r * fnma(x, r, Lanes(2.0f));
#else
  return Lanes(1.0f) / x;
#endif
}

}  // namespace S4D_NS
