// What the CPU kernels must not know when they are compiled.
#include "manifold_core/bounds.h"

namespace manifold_core {

extern const ExponentBounds<float> kExponentBounds32 = exponent_bounds(float());
extern const ExponentBounds<double> kExponentBounds64 = exponent_bounds(double());

}  // namespace manifold_core
