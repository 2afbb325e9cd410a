// The kernels of one instruction set, for isa_<name>.cpp, which defines MC_ISA, MC_TARGET if it is not the
// compiler's baseline, and MC_VECTOR_BYTES: compilers disagree on whether the pragma sets __AVX2__ and its kin.
#pragma once

#include "kernels.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MC_QUOTED(...) #__VA_ARGS__
#define MC_STRING(...) MC_QUOTED(__VA_ARGS__)  // macros expanded
#define MC_PRAGMA_OF(text) _Pragma(text)
#define MC_PRAGMA(...) MC_PRAGMA_OF(MC_STRING(__VA_ARGS__))

#if defined(MC_TARGET) && defined(__x86_64__)
// Below every other header: what those define may be shared with code for older processors.
#if defined(__clang__)
MC_PRAGMA(clang attribute push(__attribute__((target(MC_TARGET))), apply_to = function))
#else
MC_PRAGMA(GCC target(MC_TARGET))
#endif
#endif

#include "convolution.h"
#include "ensemble/step.h"
#include "gaussian_nll.h"
#include "lstm.h"
#include "rsample_kl.h"
#include "rsample_kl_cholesky.h"

namespace manifold_core::MC_ISA {

template <class C>
constexpr cpu::Kernels<C> kernels{rsample_kl<C>,
                                  rsample_kl_backward<C>,
                                  rsample_kl_cholesky<C>,
                                  rsample_kl_cholesky_backward<C>,
                                  gaussian_nll<C>,
                                  gaussian_nll_backward<C>,
                                  kSamples<C>,
                                  convolve<C>,
                                  convolve_backward<C>,
                                  normalise<C>,
                                  normalise_sums<C>,
                                  normalise_backward<C>};

const cpu::InstructionSet instruction_set{MC_STRING(MC_ISA), kernels<float>, kernels<double>,
                                         {lstm, lstm_backward}, {squared_error, gradient, update}};

}  // namespace manifold_core::MC_ISA

#if defined(MC_TARGET) && defined(__x86_64__) && defined(__clang__)
#pragma clang attribute pop
#endif
