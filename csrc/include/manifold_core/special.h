// Elementary functions as straight-line code, so that a loop over them vectorises on every instruction set.
// All are plain Taylor series after an exact range reduction; degrees are chosen so that the truncation stays below
// half a unit in the last place. None raises, clamps or branches; NaN in gives NaN out.
#pragma once

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
  static constexpr float exp_low = -88.0f, exp_high = 88.376f, infinite = 89.0f;  // n = -127, 127 and 128
  static constexpr Uint sqrt_half = 0x3f3504f3u;                     // bits of sqrt(1/2)
  static constexpr int exp_terms = 7, sin_terms = 5, cos_terms = 6;
};

template <>
struct Float<double> {
  using Int = int64_t;
  using Uint = uint64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_hi = 0.69314718036912381649, ln2_lo = 1.9082149292705877e-10;  // ln2_hi has 33 bits
  static constexpr double largest = 1.7976931348623157e308;
  static constexpr double exp_low = -709.0, exp_high = 709.436, infinite = 710.0;  // n = -1023, 1023 and 1024
  static constexpr Uint sqrt_half = 0x3fe6a09e667f3bcdull;
  static constexpr int exp_terms = 13, sin_terms = 11, cos_terms = 11;
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

// 1 / (k + first)!
template <class T, int n, int first>
MC_INLINE constexpr Coefficients<T, n> inverse_factorials() {
  Coefficients<T, n> c{};
  double factorial = 1;
  for (int k = 2; k <= first; ++k) factorial *= k;
  for (int k = 0; k < n; ++k) {
    c.at[k] = static_cast<T>(1 / factorial);
    factorial *= k + first + 1;
  }
  return c;
}

// (-1)^k / (2k + first)!, of cos (first = 0) and sin(a) / a (first = 1) in powers of a^2.
template <class T, int n, int first>
MC_INLINE constexpr Coefficients<T, n> alternating_factorials() {
  Coefficients<T, n> c{};
  double factorial = 1;
  for (int k = 0; k < n; ++k) {
    c.at[k] = static_cast<T>((k % 2 ? -1 : 1) / factorial);
    factorial *= (2 * k + first + 1) * (2 * k + first + 2);
  }
  return c;
}

// 1 / (2k + 1), of atanh(s) / s in powers of s^2.
template <class T, int n>
MC_INLINE constexpr Coefficients<T, n> odd_reciprocals() {
  Coefficients<T, n> c{};
  for (int k = 0; k < n; ++k) c.at[k] = static_cast<T>(1.0 / (2 * k + 1));
  return c;
}

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
// number are 0; from 2^127.5 (2^1023.5) on they are infinite.
template <class T>
MC_INLINE Exponential<T> exponential(T x) {
  using F = Float<T>;
  using Uint = typename F::Uint;
  // Bounds where 2^n becomes 0 and infinite, the latter with r above 0: infinity times a negative r + q would be NaN
  // once 2^n is added. NaN passes through: every comparison with it is false.
  T y = x < F::exp_low ? F::exp_low : x;
  y = y > F::exp_high ? F::infinite : y;
  const T shifted = y * T(1.4426950408889634074) + F::round_magic;  // n sits in its low bits
  const T n = shifted - F::round_magic;
  const T scale = bit_cast<T>((bit_cast<Uint>(shifted) << F::mantissa) + (Uint(F::bias) << F::mantissa));
  const T r = (y - n * F::ln2_hi) - n * F::ln2_lo;
  constexpr auto series = inverse_factorials<T, F::exp_terms, 2>();
  const T q = r * r * polynomial(series, r);
  const T p = r + q;
  const T exp_minus_1 = scale * p + (scale - T(1));
  return {scale * p + scale, exp_minus_1, n == T(0) ? q : exp_minus_1 - x};
}

// log(1 + f) - f for sqrt(1/2) <= 1 + f < sqrt(2): 2 atanh(s) - f with s = f / (2 + f), |s| < 0.172.
MC_INLINE double log_1p_minus(double f) {
  constexpr auto atanh = odd_reciprocals<double, 12>();
  const double s = f / (2.0 + f);
  return 2.0 * s * polynomial(atanh, s * s) - f;
}

// In single precision a division costs more than the polynomial does, so -f^2/2 + f^3 P(f) with the P of degree 6 that
// minimises the largest relative error of log(1 + f), 3.2e-8 (Remez's algorithm).
MC_INLINE float log_1p_minus(float f) {
  constexpr Coefficients<float, 7> p = {{0.3333391074f, -0.2500133704f, 0.1996306383f, -0.1657758473f, 0.149147676f,
                                         -0.1426748659f, 0.08700436432f}};
  return f * f * (f * polynomial(p, f) - 0.5f);
}

// log((w + 1/2) / 2^32): relative error of a few units in the last place also where the argument is close to 1.
template <class T>
MC_INLINE T log_uniform(uint32_t w) {
  using F = Float<T>;
  using Uint = typename F::Uint;
  using Int = typename F::Int;
  // Above sqrt(1/2) the distance from 1 is taken from the word itself: as a number u would have rounded it away.
  const bool near_one = w >= 0xB504F334u;
  const T v = (T(near_one ? ~w : w) + T(0.5)) * (T(1) / T(4294967296.0));  // u, or 1 - u
  const Uint shifted = bit_cast<Uint>(v) - F::sqrt_half;
  const Int exponent = static_cast<Int>(shifted) >> F::mantissa;
  const T m = bit_cast<T>((shifted & ((Uint(1) << F::mantissa) - 1)) + F::sqrt_half);  // in [sqrt(1/2), sqrt(2))
  const T f = near_one ? -v : m - T(1);
  const T e = near_one ? T(0) : T(exponent);
  return ((e * F::ln2_lo + log_1p_minus(f)) + f) + e * F::ln2_hi;
}

// cos and sin of 2 pi (w + 1/2) / 2^32. The quadrant and the angle inside it are taken from the integer, exactly.
template <class T>
MC_INLINE void cos_sin_uniform(uint32_t w, T& cosine, T& sine) {
  using F = Float<T>;
  const uint32_t quadrant = (w + 0x20000000u) >> 30;  // the nearest multiple of pi/2, modulo 4
  const int32_t offset = static_cast<int32_t>(w - (quadrant << 30));
  const T a = T(2 * offset + 1) * T(7.3145903963357981e-10);  // pi / 2^32
  constexpr auto sin_series = alternating_factorials<T, F::sin_terms, 1>();
  constexpr auto cos_series = alternating_factorials<T, F::cos_terms, 0>();
  const T s = a * polynomial(sin_series, a * a);
  const T c = polynomial(cos_series, a * a);
  const bool swap = quadrant & 1;
  const T cos_part = swap ? s : c;
  const T sin_part = swap ? c : s;
  cosine = ((quadrant + 1) & 2) ? -cos_part : cos_part;
  sine = (quadrant & 2) ? -sin_part : sin_part;
}

}  // namespace manifold_core::MC_ISA
