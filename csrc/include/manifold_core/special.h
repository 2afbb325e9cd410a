// Elementary functions as straight-line code, so that a loop over them vectorises on every instruction set.
// All are polynomials after an exact range reduction, Taylor's in double precision, in single those of least relative
// error (Remez's algorithm); their degrees keep that below half a unit in the last place. None raises, clamps or
// branches; NaN in gives NaN out.
#pragma once

#include "bounds.h"
#include "macros.h"

#include <cstdint>
#include <cstring>

namespace manifold_core::MC_ISA {

template <class To, class From>
MC_INLINE To bit_cast(From from) {
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

template <class T>
struct Float;

template <>
struct Float<float> {
  using Int = int32_t;
  using Uint = uint32_t;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;  // ln2_hi has 9 bits: n * ln2_hi is exact
  static constexpr float largest = 3.4028234664e38f;
  static constexpr Uint sqrt_half = 0x3f3504f3u;  // bits of sqrt(1/2)
};

template <>
struct Float<double> {
  using Int = int64_t;
  using Uint = uint64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_hi = 0.69314718036912381649, ln2_lo = 1.9082149292705877e-10;  // ln2_hi has 33 bits
  static constexpr double largest = 1.7976931348623157e308;
  static constexpr Uint sqrt_half = 0x3fe6a09e667f3bcdull;
};

template <class T, int n>
struct Coefficients {
  T at[n];
};

// sum_k c_k x^k by Horner's rule.
template <class T, int n>
MC_INLINE T polynomial(const Coefficients<T, n>& c, T x) {
  T sum = c.at[n - 1];
  for (int k = n - 2; k >= 0; --k) sum = sum * x + c.at[k];
  return sum;
}

// The same of even and odd powers by themselves, where x^2 is at hand: as many operations, of which half as many wait
// for one another. A GPU has other threads to turn to meanwhile, and no registers to spare.
template <class T, int n>
MC_INLINE T polynomial(const Coefficients<T, n>& c, T x, T x2) {
#if defined(__CUDA_ARCH__)
  return polynomial(c, x);
#else
  constexpr int last = n - 1, before = n - 2;
  T even = c.at[last % 2 ? before : last], odd = c.at[last % 2 ? last : before];
  for (int k = n - 3; k >= 0; --k) {
    T& sum = k % 2 ? odd : even;
    sum = sum * x2 + c.at[k];
  }
  return odd * x + even;
#endif
}

// 1 / (k + first)!
template <int n, int first>
MC_INLINE constexpr Coefficients<double, n> inverse_factorials() {
  Coefficients<double, n> c{};
  double factorial = 1;
  for (int k = 2; k <= first; ++k) factorial *= k;
  for (int k = 0; k < n; ++k) {
    c.at[k] = 1 / factorial;
    factorial *= k + first + 1;
  }
  return c;
}

// (-1)^k / (2k + first)!, of cos (first = 0) and sin(a) / a (first = 1) in powers of a^2.
template <int n, int first>
MC_INLINE constexpr Coefficients<double, n> alternating_factorials() {
  Coefficients<double, n> c{};
  double factorial = 1;
  for (int k = 0; k < n; ++k) {
    c.at[k] = (k % 2 ? -1 : 1) / factorial;
    factorial *= (2 * k + first + 1) * (2 * k + first + 2);
  }
  return c;
}

// 1 / (2k + 1), of atanh(s) / s in powers of s^2.
template <int n>
MC_INLINE constexpr Coefficients<double, n> odd_reciprocals() {
  Coefficients<double, n> c{};
  for (int k = 0; k < n; ++k) c.at[k] = 1.0 / (2 * k + 1);
  return c;
}

// Of (e^r - 1 - r) / r^2 in r; of sin(a) / a and cos(a) in a^2. Errors in single precision: 2.7e-9, 3.8e-9, 1.2e-10.
// kernels/triton_math.py has the same numbers.
MC_INLINE constexpr Coefficients<float, 6> exp_series(float) {
  return {{0.5f, 0.16666667163f, 0.04166646302f, 0.00833336078f, 0.00139336870f, 0.00019857832f}};
}
MC_INLINE constexpr Coefficients<float, 4> sin_series(float) {
  return {{1.0f, -0.166666546059f, 0.00833216052645f, -0.000195152506062f}};
}
MC_INLINE constexpr Coefficients<float, 5> cos_series(float) {
  return {{1.0f, -0.5f, 0.0416666456766f, -0.00138873159355f, 2.44331198773e-5f}};
}
MC_INLINE constexpr auto exp_series(double) { return inverse_factorials<13, 2>(); }
MC_INLINE constexpr auto sin_series(double) { return alternating_factorials<11, 1>(); }
MC_INLINE constexpr auto cos_series(double) { return alternating_factorials<11, 0>(); }

template <class T>
struct Exponential {
  T exp;                  // e^x
  T exp_minus_1;          // e^x - 1, relatively exact near 0
  T exp_minus_1_minus_x;  // e^x - 1 - x, relatively exact near 0, where it is x^2/2
};

// With x = n log 2 + r, |r| <= (log 2) / 2, and q = e^r - 1 - r = r^2/2 + r^3/6 + ...:
//     e^x     = 2^n + 2^n (r + q)
//     e^x - 1 = 2^n (r + q) + (2^n - 1)
//     e^x - 1 - x = q for n = 0, else the difference.
// Inactive latent dimensions sit at x = 0, where the obvious forms lose all digits. Results below the smallest normal
// number are 0; from just below 2^127.5 (2^1023.5) on they are infinite.
template <class T>
MC_INLINE Exponential<T> exponential(T x) {
  using F = Float<T>;
  using Uint = typename F::Uint;
  // NaN passes through: every comparison with it is false.
  const ExponentBounds<T> bounds = exponent_bounds(T());
  T y = x < bounds.low ? bounds.low : x;
  y = y > bounds.high ? bounds.infinite : y;
  const T shifted = y * T(1.4426950408889634074) + F::round_magic;  // n sits in its low bits
  const T n = shifted - F::round_magic;
  const T scale = bit_cast<T>((bit_cast<Uint>(shifted) << F::mantissa) + (Uint(F::bias) << F::mantissa));
  const T r = (y - n * F::ln2_hi) - n * F::ln2_lo;
  const T r2 = r * r;
  constexpr auto series = exp_series(T());
  const T q = r2 * polynomial(series, r, r2);
  const T p = r + q;
  const T exp_minus_1 = scale * p + (scale - T(1));
  return {scale * p + scale, exp_minus_1, n == T(0) ? q : exp_minus_1 - x};
}

// log(1 + f) - f for sqrt(1/2) <= 1 + f < sqrt(2): 2 atanh(s) - f with s = f / (2 + f), |s| < 0.172.
MC_INLINE double log_1p_minus(double f) {
  constexpr auto atanh = odd_reciprocals<12>();
  const double s = f / (2.0 + f);
  return 2.0 * s * polynomial(atanh, s * s) - f;
}

// In single precision a division costs more than the polynomial does, so f^2 (-1/2 + f P(f)) with the P of degree 6
// that minimises the largest relative error of log(1 + f), 3.2e-8 (Remez's algorithm).
MC_INLINE float log_1p_minus(float f) {
  constexpr Coefficients<float, 8> p = {{-0.5f, 0.3333391074f, -0.2500133704f, 0.1996306383f, -0.1657758473f,
                                         0.149147676f, -0.1426748659f, 0.08700436432f}};
  const float f2 = f * f;
  return f2 * polynomial(p, f, f2);
}

// log((w + 1/2) / 2^32): relative error of a few units in the last place also where the argument is close to 1.
template <class T>
MC_INLINE T log_uniform(uint32_t w) {
  using F = Float<T>;
  using Uint = typename F::Uint;
  using Int = typename F::Int;
  // As a signed number the word gives u below 1/2, and above it u - 1, which u itself would have rounded away near 1.
  const T v = T(static_cast<int32_t>(w)) * T(0x1p-32) + T(0x1p-33);
  const T u = v < T(0) ? v + T(1) : v;
  const Uint shifted = bit_cast<Uint>(u) - F::sqrt_half;
  const Int exponent = static_cast<Int>(shifted) >> F::mantissa;
  const T m = bit_cast<T>((shifted & ((Uint(1) << F::mantissa) - 1)) + F::sqrt_half);  // in [sqrt(1/2), sqrt(2))
  const T f = exponent == 0 ? v : m - T(1);
  const T e = T(exponent);
  return ((e * F::ln2_lo + log_1p_minus(f)) + f) + e * F::ln2_hi;
}

// x, or -x where the highest bit of the word is set.
template <class T>
MC_INLINE T flip_sign(T x, uint32_t word) {
  using Uint = typename Float<T>::Uint;
  return bit_cast<T>(bit_cast<Uint>(x) ^ (Uint(word & 0x80000000u) << 8 * (sizeof(T) - sizeof(word))));
}

// cos and sin of 2 pi (w + 1/2) / 2^32. The quadrant and the angle inside it are taken from the integer, exactly.
template <class T>
MC_INLINE void cos_sin_uniform(uint32_t w, T& cosine, T& sine) {
  // The two high bits of w + 2^29 are the nearest multiple of pi/2; the low 30 of w, with a sign, are the way from there.
  const uint32_t turned = w + 0x20000000u;
  const T a = T(static_cast<int32_t>(w << 2)) * T(3.6572951981678990e-10) + T(7.3145903963357981e-10);  // pi / 2^33, 2^32
  constexpr auto of_sin = sin_series(T());
  constexpr auto of_cos = cos_series(T());
  const T s = a * polynomial(of_sin, a * a);
  const T c = polynomial(of_cos, a * a);
  const bool swap = static_cast<int32_t>(turned << 1) < 0;
  cosine = flip_sign(swap ? s : c, turned + 0x40000000u);
  sine = flip_sign(swap ? c : s, turned);
}

}  // namespace manifold_core::MC_ISA
