// The CPU kernels, compiled for the compiler's baseline.
#define MC_ISA portable

#include "kernels.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MC_VECTOR_BYTES 16
#include "instruction_set.h"

namespace manifold_core::cpu {

const InstructionSet portable_kernels{"portable", portable::kernels<float>, portable::kernels<double>,
                                      portable::lstm_kernels, portable::ensemble_kernels};

}  // namespace manifold_core::cpu
