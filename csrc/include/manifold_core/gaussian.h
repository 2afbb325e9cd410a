// The per-element terms of the Gaussian ELBO and their derivatives. l is log sigma^2 of the posterior, p of the prior.
#pragma once

#include "macros.h"
#include "special.h"

namespace manifold_core {

constexpr double kLog2Pi = 1.8378770664093454836;

}  // namespace manifold_core

namespace manifold_core::MC_ISA {

// The ratio of two variances, e^delta with delta = l - p; the variance itself if the prior's is 1.
template <class T>
struct Ratio {
  T root;          // e^(delta/2)
  T root_minus_1;  // e^(delta/2) - 1
  T kl;            // (e^delta - 1 - delta) / 2, the KL if the means are equal
};

// All from one exponential. With t = e^(delta/2) - 1 and s = e^(delta/2) - 1 - delta/2:
//     e^delta - 1               = t (t + 2)
//     (e^delta - 1 - delta) / 2 = t^2 / 2 + s      (both terms are positive: nothing cancels)
template <class T>
MC_INLINE Ratio<T> ratio_from_half(const Exponential<T>& half) {
  const T t = half.exp_minus_1;
  return {half.exp, t, T(0.5) * t * t + half.exp_minus_1_minus_x};
}

// k (e^delta - 1), with k first: where e^delta alone is infinite, 0 stays 0, and a small k gives a number.
template <class T>
MC_INLINE T times_exp_minus_1(T k, const Ratio<T>& v) {
  return k * v.root_minus_1 * (v.root_minus_1 + T(2));
}

template <class T>
MC_INLINE Ratio<T> variance(T l) {
  return ratio_from_half(exponential(T(0.5) * l));
}

// e^(l - p). Rounding delta = 80 alone would cost 4e-6 of e^delta in float32: what it loses is kept, and put back to
// first order.
template <class T>
MC_INLINE Ratio<T> variance_ratio(T l, T p) {
  const T delta = l - p, used = delta - l;
  T lost = (l - (delta - used)) - (p + used);
  lost = lost == lost ? lost : T(0);  // infinities lose nothing
  const T h = T(0.5) * lost;
  Exponential<T> half = exponential(T(0.5) * delta);
  const T slope = half.exp < Float<T>::largest ? half.exp : Float<T>::largest;  // 0 * infinity would be NaN
  half.exp += h * slope;
  half.exp_minus_1_minus_x += h * (slope - T(1));
  half.exp_minus_1 += h * slope;
  return ratio_from_half(half);
}

// KL[N(mu, e^l) || N(m, e^p)] = (scaled^2 + e^delta - 1 - delta) / 2 in nats, with scaled = (mu - m) e^(-p/2). Its
// derivatives: scaled e^(-p/2) in mu, (e^delta - 1) / 2 in l; in m and p those of mu and of l + scaled^2 / 2, negative.
template <class T>
MC_INLINE T kl_divergence(T scaled, const Ratio<T>& v) {
  // Halved before they are squared: half of what overflows may not.
  return T(0.5) * scaled * scaled + v.kl;
}

template <class T>
struct Gate {
  T weight;  // w = 1 / (1 + e^-a)
  T slope;   // dw / da = w (1 - w)
};

// Relatively exact in both tails.
template <class T>
MC_INLINE Gate<T> sigmoid(T a) {
  const T e = exponential(a < T(0) ? a : -a).exp;
  const T larger = T(1) / (T(1) + e), smaller = e * larger;
  return {a < T(0) ? smaller : larger, larger * smaller};
}

}  // namespace manifold_core::MC_ISA
