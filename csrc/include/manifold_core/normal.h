// Standard normal noise from Philox words, by Box and Muller.
//
//     r = sqrt(-2 log((w0 + 1/2) / 2^32)),  angle = 2 pi (w1 + 1/2) / 2^32:  (r cos, r sin) from words 0, 1 and from 2, 3.
//
// The definition is over the real numbers: float32 noise is float64 noise rounded, to about 4e-7 relative.
#pragma once

#include "macros.h"
#include "special.h"

#include <cmath>

namespace manifold_core::MC_ISA {

template <class T>
MC_INLINE T normal_radius(uint32_t w0) {
  return sqrt(T(-2) * log_uniform<T>(w0));
}

}  // namespace manifold_core::MC_ISA
