// The per-element headers serve the host, every CPU instruction set and the device from one text.
#pragma once

#if defined(__CUDACC__)
#define MC_INLINE __host__ __device__ __forceinline__
#else
#define MC_INLINE inline __attribute__((always_inline))
#endif

// One source file per CPU instruction set includes these headers, in a namespace named after it: two definitions of
// one name, compiled for different processors, must never meet in the linker.
#if !defined(MC_ISA)
#define MC_ISA portable
#endif
