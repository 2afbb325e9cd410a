// The CPU kernels, compiled for avx512.
#define MC_ISA avx512

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
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,prefer-vector-width=512")
#endif
#endif

#define MC_VECTOR_BYTES 64  // said here: compilers disagree on whether the pragma sets __AVX2__ and its kin
#include "instruction_set.h"

#if defined(__clang__) && defined(__x86_64__)
#pragma clang attribute pop
#endif

namespace manifold_core::cpu {

const InstructionSet avx512_kernels{"avx512", avx512::kernels<float>, avx512::kernels<double>,
                                    avx512::lstm_kernels, avx512::ensemble_kernels};

}  // namespace manifold_core::cpu
