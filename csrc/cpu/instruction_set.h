// The table of kernels of one instruction set. Included once by each isa_<name>.cpp, which defines MC_ISA.
#pragma once

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

constexpr cpu::LstmKernels lstm_kernels{lstm, lstm_backward};

constexpr cpu::EnsembleKernels ensemble_kernels{squared_error, gradient, update};

}  // namespace manifold_core::MC_ISA
