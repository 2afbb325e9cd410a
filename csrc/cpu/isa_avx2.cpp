// The CPU kernels, compiled for avx2.
#define MC_ISA avx2

#include "kernels.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__x86_64__)
// Below every other header: what those define may be shared with code for older processors.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#endif
#endif

#define MC_VECTOR_BYTES 32  // said here: compilers disagree on whether the pragma sets __AVX2__ and its kin
#include "instruction_set.h"

#if defined(__clang__) && defined(__x86_64__)
#pragma clang attribute pop
#endif

namespace manifold_core::cpu {

const InstructionSet avx2_kernels{"avx2", avx2::kernels<float>, avx2::kernels<double>,
                                  avx2::lstm_kernels, avx2::ensemble_kernels};

}  // namespace manifold_core::cpu
