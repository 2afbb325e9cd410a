// Run-time choice of instruction set: a wheel built on one machine must not crash on another.
#include "kernels.h"

#include <atomic>
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace manifold_core::cpu {

namespace {

struct Candidate {
  const InstructionSet* set;
  bool supported;
};

struct Candidates {
  Candidate at[3];
};

#if defined(__x86_64__)
// Conversions of half precision, of which not every compiler's __builtin_cpu_supports knows.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

const Candidates& candidates() {
#if defined(__x86_64__)
  // All that isa_avx2.cpp and isa_avx512.cpp are compiled for: a virtual machine may hide any of it.
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                               __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && has_f16c();
  static const Candidates all = {{
      {&portable::instruction_set, true},
      {&avx2::instruction_set, has_avx2},
      {&avx512::instruction_set, has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
  }};
#else
  static const Candidates all = {
      {{&portable::instruction_set, true}, {&avx2::instruction_set, false}, {&avx512::instruction_set, false}}};
#endif
  return all;
}

std::atomic<const InstructionSet*> chosen{nullptr};

}  // namespace

const InstructionSet& instruction_set() {
  const InstructionSet* set = chosen.load(std::memory_order_relaxed);
  if (set == nullptr) {
    for (const Candidate& c : candidates().at) {
      if (c.supported) set = c.set;
    }
    chosen.store(set, std::memory_order_relaxed);
  }
  return *set;
}

int supported_instruction_sets(const char* names[3]) {
  int count = 0;
  for (const Candidate& c : candidates().at) {
    if (c.supported) names[count++] = c.set->name;
  }
  return count;
}

bool use_instruction_set(const char* name) {
  for (const Candidate& c : candidates().at) {
    if (c.supported && std::strcmp(c.set->name, name) == 0) {
      chosen.store(c.set, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace manifold_core::cpu
