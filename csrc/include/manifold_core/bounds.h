// Where 2^n becomes 0 and infinite in e^x = 2^n e^r: n is -127 (-1023) at `low`, 127 (1023) at `high`, and 128 (1024)
// with r above 0 at `infinite`: infinity times a negative e^r - 1 would be NaN once 2^n is added.
#pragma once

#include "macros.h"

namespace manifold_core {

template <class T>
struct ExponentBounds {
  T low, high, infinite;
};

constexpr ExponentBounds<float> kKnownBounds32{-88.0f, 88.376f, 89.0f};
constexpr ExponentBounds<double> kKnownBounds64{-709.0, 709.436, 710.0};

// The same, defined in cpu/bounds.cpp. From constants that it knows GCC makes a branch for x out of bounds, with all
// that follows computed beforehand, and from the branch, in a vectorised loop, fourteen blends and comparisons instead of
// three: a fifth of the time of a KL.
extern const ExponentBounds<float> kExponentBounds32;
extern const ExponentBounds<double> kExponentBounds64;

namespace MC_ISA {

#if defined(MC_VECTOR_BYTES)
MC_INLINE ExponentBounds<float> exponent_bounds(float) { return kExponentBounds32; }
MC_INLINE ExponentBounds<double> exponent_bounds(double) { return kExponentBounds64; }
#else
MC_INLINE constexpr ExponentBounds<float> exponent_bounds(float) { return kKnownBounds32; }
MC_INLINE constexpr ExponentBounds<double> exponent_bounds(double) { return kKnownBounds64; }
#endif

}  // namespace MC_ISA
}  // namespace manifold_core
