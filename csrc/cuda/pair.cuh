// The posterior and the prior of one element.
#pragma once

#include "manifold_core/gaussian.h"

#include <cuda_runtime.h>

namespace manifold_core::cuda {

using namespace MC_ISA;

// What the posterior and the prior of one element have in common.
template <class C>
struct Pair {
  Ratio<C> ratio;
  C sigma;         // e^(l/2)
  C prior_factor;  // e^(-p/2)
  C scaled;        // (mu - m) e^(-p/2)
};

template <class C>
__device__ __forceinline__ Pair<C> compare(bool with_prior, C mu, C l, C m, C p) {
  if (!with_prior) {
    const Ratio<C> v = variance(l);
    return {v, v.root, C(1), mu};
  }
  const C factor = exponential(C(-0.5) * p).exp;
  return {variance_ratio(l, p), exponential(C(0.5) * l).exp, factor, (mu - m) * factor};
}

}  // namespace manifold_core::cuda
