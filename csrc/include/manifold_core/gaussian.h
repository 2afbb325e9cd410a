// The per-element terms of the Gaussian ELBO and their derivatives. l is log sigma^2.
#pragma once

#include "macros.h"
#include "special.h"

namespace manifold_core::MC_ISA {

template <class T>
struct Variance {
  T sigma;                // e^(l/2)
  T exp_minus_1;          // e^l - 1
  T exp_minus_1_minus_l;  // e^l - 1 - l
};

// All three from one exponential. With t = e^(l/2) - 1 and s = e^(l/2) - 1 - l/2:
//     e^l - 1     = t (t + 2)
//     e^l - 1 - l = t^2 + 2 s      (both terms are positive: nothing cancels)
template <class T>
MC_INLINE Variance<T> variance(T l) {
  const Exponential<T> half = exponential(T(0.5) * l);
  const T t = half.exp_minus_1;
  return {half.exp, t * (t + T(2)), t * t + T(2) * half.exp_minus_1_minus_x};
}

// KL[N(mu, e^l) || N(0, 1)] = (mu^2 + e^l - 1 - l) / 2, in nats. Its derivatives: mu, and (e^l - 1) / 2 in l.
template <class T>
MC_INLINE T kl_standard(T mu, const Variance<T>& v) {
  return T(0.5) * (mu * mu + v.exp_minus_1_minus_l);
}

}  // namespace manifold_core::MC_ISA
