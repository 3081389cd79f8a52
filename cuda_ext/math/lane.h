// What the templates of math/ ask of a number type T: float or double (host, device) or a SIMD lane type (cpu/simd.h).
// No branches on lanes: comparisons give a mask, `select` chooses.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define S4D_HD __host__ __device__ __forceinline__
#else
#define S4D_HD inline __attribute__((always_inline))
#endif

// One namespace per instruction set, so that the linker never merges code built for different machines.
#ifndef S4D_NS
#define S4D_NS s4d
#endif

namespace S4D_NS {

S4D_HD float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
S4D_HD double fma(double a, double b, double c) { return ::fma(a, b, c); }
S4D_HD float sqrt(float x) { return ::sqrtf(x); }
S4D_HD double sqrt(double x) { return ::sqrt(x); }
S4D_HD float select(bool mask, float a, float b) { return mask ? a : b; }
S4D_HD double select(bool mask, double a, double b) { return mask ? a : b; }
S4D_HD float min(float a, float b) { return a < b ? a : b; }
S4D_HD double min(double a, double b) { return a < b ? a : b; }
S4D_HD float max(float a, float b) { return a > b ? a : b; }
S4D_HD double max(double a, double b) { return a > b ? a : b; }

}  // namespace S4D_NS
