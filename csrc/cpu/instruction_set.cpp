// Run-time choice of instruction set: a wheel built on one machine must not crash on another.
#include "kernels.h"

#include <atomic>
#include <cstring>

namespace manifold_core::cpu {

namespace {

struct Candidate {
  const InstructionSet* set;
  bool supported;
};

struct Candidates {
  Candidate at[3];
};

const Candidates& candidates() {
#if defined(__x86_64__)
  static const Candidates all = {{
      {&portable_kernels, true},
      {&avx2_kernels, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
      {&avx512_kernels, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("fma")},
  }};
#else
  static const Candidates all = {{{&portable_kernels, true}, {&avx2_kernels, false}, {&avx512_kernels, false}}};
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
