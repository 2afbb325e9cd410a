// What the CPU kernels must not know when they are compiled (nor learn when they are linked: not to be built with -flto).
#include "manifold_core/bounds.h"

namespace manifold_core {

const ExponentBounds<float> kExponentBounds32 = kKnownBounds32;
const ExponentBounds<double> kExponentBounds64 = kKnownBounds64;

}  // namespace manifold_core
