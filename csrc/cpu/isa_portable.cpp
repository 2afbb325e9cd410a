// The CPU kernels, compiled for the compiler's baseline.
#define MC_ISA portable
#define MC_VECTOR_BYTES 16

#include "isa.h"
