// The CPU kernels, compiled for AVX-512.
#define MC_ISA avx512
#define MC_VECTOR_BYTES 64
#if defined(__clang__)
#define MC_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2"
#else
#define MC_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,prefer-vector-width=512"
#endif

#include "isa.h"
