// The CPU kernels, compiled for AVX2.
#define MC_ISA avx2
#define MC_VECTOR_BYTES 32
#define MC_TARGET "avx2,fma,f16c,bmi,bmi2"

#include "isa.h"
