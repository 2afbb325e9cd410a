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
  static constexpr float exp_low = -110.0f, exp_high = 100.0f;       // beyond these e^x is 0 or infinite anyway
  static constexpr Uint sqrt_half = 0x3f3504f3u;                     // bits of sqrt(1/2)
  static constexpr int exp_terms = 7, log_terms = 5, trig_terms = 6;
};

template <>
struct Float<double> {
  using Int = int64_t;
  using Uint = uint64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_hi = 0.69314718036912381649, ln2_lo = 1.9082149292705877e-10;  // ln2_hi has 33 bits
  static constexpr double exp_low = -750.0, exp_high = 712.0;
  static constexpr Uint sqrt_half = 0x3fe6a09e667f3bcdull;
  static constexpr int exp_terms = 13, log_terms = 12, trig_terms = 11;
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
constexpr Coefficients<T, n> inverse_factorials() {
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
constexpr Coefficients<T, n> alternating_factorials() {
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
constexpr Coefficients<T, n> odd_reciprocals() {
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
//     e^x         = 2^n (1 + r + q)
//     e^x - 1 - x = 2^n q + (2^n - 1) r + (2^n - 1 - n log 2),  for n = 0 simply q.
// Inactive latent dimensions sit at x = 0, where the obvious forms lose all digits. Overflow and gradual underflow are
// those of IEEE 754.
template <class T>
MC_INLINE Exponential<T> exponential(T x) {
  using F = Float<T>;
  using Int = typename F::Int;
  using Uint = typename F::Uint;
  // Written so that NaN passes through: every comparison with it is false.
  T y = x < F::exp_low ? F::exp_low : x;
  y = y > F::exp_high ? F::exp_high : y;
  const T shifted = y * T(1.4426950408889634074) + F::round_magic;
  const T n = shifted - F::round_magic;
  const Int exponent = static_cast<Int>(bit_cast<Uint>(shifted) - bit_cast<Uint>(F::round_magic));
  // Two factors, because 2^n alone leaves the range of T where its product with e^r is subnormal.
  const Int half = exponent >> 1;
  const T scale1 = bit_cast<T>(static_cast<Uint>(half + F::bias) << F::mantissa);
  const T scale2 = bit_cast<T>(static_cast<Uint>(exponent - half + F::bias) << F::mantissa);
  const T scale = scale1 * scale2;

  const T r = (y - n * F::ln2_hi) - n * F::ln2_lo;
  constexpr auto series = inverse_factorials<T, F::exp_terms, 2>();
  const T q = r * r * polynomial(series, r);
  const T exp_x = (T(1) + (r + q)) * scale1 * scale2;
  const T near_zero = scale * q + ((scale - T(1)) * r + ((scale - T(1) - n * F::ln2_hi) - n * F::ln2_lo));
  const bool small = n * n <= T(1);
  return {exp_x, small ? x + near_zero : exp_x - T(1), small ? near_zero : (exp_x - T(1)) - x};
}

// log((w + 1/2) / 2^32): relative error of a few units in the last place also where the argument is close to 1.
template <class T>
MC_INLINE T log_uniform(uint32_t w) {
  using F = Float<T>;
  using Uint = typename F::Uint;
  using Int = typename F::Int;
  constexpr T scale = T(1) / T(4294967296.0);
  const T u = (T(w) + T(0.5)) * scale;
  const T one_minus_u = (T(~w) + T(0.5)) * scale;
  // Mantissa in [sqrt(1/2), sqrt(2)).
  const Uint shifted = bit_cast<Uint>(u) - F::sqrt_half;
  const Int exponent = static_cast<Int>(shifted) >> F::mantissa;
  const T m = bit_cast<T>((shifted & ((Uint(1) << F::mantissa) - 1)) + F::sqrt_half);
  // Above sqrt(1/2) the exact distance from 1 is known from the word itself: u has rounded it away.
  const bool near_one = w >= 0xB504F334u;
  const T f = near_one ? -one_minus_u : m - T(1);
  const T e = near_one ? T(0) : T(exponent);
  const T s = f / (T(2) + f);  // log(1 + f) = 2 atanh(s), |s| < 0.172
  constexpr auto atanh = odd_reciprocals<T, F::log_terms>();
  return (e * F::ln2_lo + T(2) * s * polynomial(atanh, s * s)) + e * F::ln2_hi;
}

// cos and sin of 2 pi (w + 1/2) / 2^32. The quadrant and the angle inside it are taken from the integer, exactly.
template <class T>
MC_INLINE void cos_sin_uniform(uint32_t w, T& cosine, T& sine) {
  using F = Float<T>;
  const uint32_t quadrant = (w + 0x20000000u) >> 30;  // the nearest multiple of pi/2, modulo 4
  const int32_t offset = static_cast<int32_t>(w - (quadrant << 30));
  const T a = T(2 * offset + 1) * T(7.3145903963357981e-10);  // pi / 2^32
  constexpr auto sin_series = alternating_factorials<T, F::trig_terms, 1>();
  constexpr auto cos_series = alternating_factorials<T, F::trig_terms, 0>();
  const T s = a * polynomial(sin_series, a * a);
  const T c = polynomial(cos_series, a * a);
  const bool swap = quadrant & 1;
  const T cos_part = swap ? s : c;
  const T sin_part = swap ? c : s;
  cosine = ((quadrant + 1) & 2) ? -cos_part : cos_part;
  sine = (quadrant & 2) ? -sin_part : sin_part;
}

}  // namespace manifold_core::MC_ISA
