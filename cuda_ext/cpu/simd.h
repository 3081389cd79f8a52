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
S4D_HD Mask and_not(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & ~b.m)}; }  // a without b
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
using Four = __m128;
// Pairs, then quads of each 128-bit part are added and interleaved; then the parts are added.
S4D_HD Four sums(Register a, Register b, Register c, Register d) {
  Register ab = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b), cd = _mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d);
  __m512d x = _mm512_castps_pd(ab), y = _mm512_castps_pd(cd);
  Register all = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y)) + _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
  __m256 half = _mm512_castps512_ps256(all) + _mm512_extractf32x8_ps(all, 1);
  return _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
}
}  // namespace simd

#elif defined(__AVX2__)

constexpr int WIDTH = 8;
using Register = __m256;
struct Mask {
  __m256 m;
};
S4D_HD Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.m, b.m)}; }
S4D_HD Mask and_not(Mask a, Mask b) { return {_mm256_andnot_ps(b.m, a.m)}; }
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
using Four = __m128;
// As for AVX-512.
S4D_HD Four sums(Register a, Register b, Register c, Register d) {
  Register ab = _mm256_unpacklo_ps(a, b) + _mm256_unpackhi_ps(a, b), cd = _mm256_unpacklo_ps(c, d) + _mm256_unpackhi_ps(c, d);
  __m256d x = _mm256_castps_pd(ab), y = _mm256_castps_pd(cd);
  Register all = _mm256_castpd_ps(_mm256_unpacklo_pd(x, y)) + _mm256_castpd_ps(_mm256_unpackhi_pd(x, y));
  return _mm256_castps256_ps128(all) + _mm256_extractf128_ps(all, 1);
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
S4D_HD Mask and_not(Mask a, Mask b) { return {a.m & ~b.m}; }
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
using Four = Register;
S4D_HD Four sums(Register a, Register b, Register c, Register d) { return Four{sum(a), sum(b), sum(c), sum(d)}; }
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
S4D_HD Lanes abs(Lanes a) { return max(a, -a); }
S4D_HD Lanes sqrt(Lanes a) { return Lanes(simd::sqrt(a.v)); }
S4D_HD Lanes round(Lanes a) { return Lanes(simd::round(a.v)); }
S4D_HD Lanes scale2(Lanes a, Lanes n) { return Lanes(simd::scale2(a.v, n.v)); }
#if defined(__AVX512F__) || defined(__AVX2__)
S4D_HD Lanes rcp_estimate(Lanes a) { return Lanes(simd::rcp_estimate(a.v)); }
#endif
S4D_HD Lanes floor(Lanes a) { return Lanes(simd::floor(a.v)); }
S4D_HD Lanes gather(const float* p, const int32_t* index) { return Lanes(simd::gather(p, index)); }
S4D_HD float sum(Lanes a) { return simd::sum(a.v); }

// out[0 .. COUNT) = the sums of a, b, c, d over their lanes; COUNT <= 4.
template <int COUNT>
S4D_HD void store_sums(float* out, Lanes a, Lanes b, Lanes c, Lanes d) {
  simd::Four four = simd::sums(a.v, b.v, c.v, d.v);
  __builtin_memcpy(out, &four, COUNT * sizeof(float));
}

// N vectors that go through the same operations side by side: a chain of dependent operations leaves room for another.
template <int N>
struct Bundle {
  Lanes at[N];

  Bundle() = default;
  S4D_HD explicit Bundle(Lanes x) {
    for (int i = 0; i < N; ++i) at[i] = x;
  }
  S4D_HD explicit Bundle(float x) : Bundle(Lanes(x)) {}
  S4D_HD static Bundle load(const float* base, const int (&offsets)[N]) {
    Bundle r;
    for (int i = 0; i < N; ++i) r.at[i] = Lanes::load(base + offsets[i]);
    return r;
  }
  S4D_HD void store(float* base, const int (&offsets)[N]) const {
    for (int i = 0; i < N; ++i) at[i].store(base + offsets[i]);
  }
};

template <int N>
struct BundleMask {
  Mask at[N];
};

#define S4D_EACH(result, expression)            \
  result r;                                     \
  for (int i = 0; i < N; ++i) r.at[i] = expression; \
  return r
template <int N>
S4D_HD Bundle<N> operator+(const Bundle<N>& a, const Bundle<N>& b) { S4D_EACH(Bundle<N>, a.at[i] + b.at[i]); }
template <int N>
S4D_HD Bundle<N> operator-(const Bundle<N>& a, const Bundle<N>& b) { S4D_EACH(Bundle<N>, a.at[i] - b.at[i]); }
template <int N>
S4D_HD Bundle<N> operator-(const Bundle<N>& a) { S4D_EACH(Bundle<N>, -a.at[i]); }
template <int N>
S4D_HD Bundle<N> operator*(const Bundle<N>& a, const Bundle<N>& b) { S4D_EACH(Bundle<N>, a.at[i] * b.at[i]); }
template <int N>
S4D_HD BundleMask<N> operator<(const Bundle<N>& a, const Bundle<N>& b) { S4D_EACH(BundleMask<N>, a.at[i] < b.at[i]); }
template <int N>
S4D_HD BundleMask<N> operator<=(const Bundle<N>& a, const Bundle<N>& b) { S4D_EACH(BundleMask<N>, a.at[i] <= b.at[i]); }
template <int N>
S4D_HD BundleMask<N> operator>(const Bundle<N>& a, const Bundle<N>& b) { return b < a; }
template <int N>
S4D_HD BundleMask<N> operator>=(const Bundle<N>& a, const Bundle<N>& b) { return b <= a; }
template <int N>
S4D_HD BundleMask<N> operator&(const BundleMask<N>& a, const BundleMask<N>& b) {
  S4D_EACH(BundleMask<N>, a.at[i] & b.at[i]);
}
template <int N>
S4D_HD Bundle<N> select(const BundleMask<N>& m, const Bundle<N>& a, const Bundle<N>& b) {
  S4D_EACH(Bundle<N>, select(m.at[i], a.at[i], b.at[i]));
}
template <int N>
S4D_HD Bundle<N> fma(const Bundle<N>& a, const Bundle<N>& b, const Bundle<N>& c) {
  S4D_EACH(Bundle<N>, fma(a.at[i], b.at[i], c.at[i]));
}
template <int N>
S4D_HD Bundle<N> fnma(const Bundle<N>& a, const Bundle<N>& b, const Bundle<N>& c) {
  S4D_EACH(Bundle<N>, fnma(a.at[i], b.at[i], c.at[i]));
}
template <int N>
S4D_HD Bundle<N> min(const Bundle<N>& a, const Bundle<N>& b) { S4D_EACH(Bundle<N>, min(a.at[i], b.at[i])); }
template <int N>
S4D_HD Bundle<N> max(const Bundle<N>& a, const Bundle<N>& b) { S4D_EACH(Bundle<N>, max(a.at[i], b.at[i])); }
template <int N>
S4D_HD Bundle<N> abs(const Bundle<N>& a) { S4D_EACH(Bundle<N>, abs(a.at[i])); }
template <int N>
S4D_HD Bundle<N> round(const Bundle<N>& a) { S4D_EACH(Bundle<N>, round(a.at[i])); }
template <int N>
S4D_HD Bundle<N> scale2(const Bundle<N>& a, const Bundle<N>& n) { S4D_EACH(Bundle<N>, scale2(a.at[i], n.at[i])); }
#if defined(__AVX512F__) || defined(__AVX2__)
template <int N>
S4D_HD Bundle<N> rcp_estimate(const Bundle<N>& a) { S4D_EACH(Bundle<N>, rcp_estimate(a.at[i])); }
#else
template <int N>
S4D_HD Bundle<N> operator/(const Bundle<N>& a, const Bundle<N>& b) { S4D_EACH(Bundle<N>, a.at[i] / b.at[i]); }
#endif
#undef S4D_EACH

// 2^x to 1e-7 (degree 5 on [-1/2, 1/2]); below 2^-120 it is 0 or 2^-120. L is a Bundle.
template <class L>
S4D_HD L exp2(L x) {
#if !defined(__AVX512F__)
  x = max(x, L(-120.0f));
#endif
  L n = round(x), f = x - n;
  L p = fma(f, L(0.001327645643f), L(0.009675541212f));
  p = fma(p, f, L(0.05550713322f));
  p = fma(p, f, L(0.2402211973f));
  p = fma(p, f, L(0.693146967f));
  p = fma(p, f, L(1.000000072f));
  return scale2(p, n);
}

// 1 / x to about 1e-7. L is a Bundle.
template <class L>
S4D_HD L reciprocal(const L& x) {
#if defined(__AVX512F__) || defined(__AVX2__)
  L r = rcp_estimate(x);
  return r * fnma(x, r, L(2.0f));
#else
  return L(1.0f) / x;
#endif
}

}  // namespace S4D_NS
