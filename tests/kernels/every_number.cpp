// How exact the elementary functions of csrc/include are in single precision: their largest errors over every float,
// or over every word of noise, against the C library in double precision. For test_every_number.py, which compiles this
// as setup.py compiles the kernels of an instruction set.
//
//     every_number STRIDE    takes every STRIDE-th; prints, by function, its largest error and where that is
//
// Errors are in units in the last place of the exact result, rounded down to a power of two, at least of the smallest
// normal number, below which results may be 0.
#include "manifold_core/gaussian.h"
#include "manifold_core/normal.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace manifold_core {

#if defined(MC_VECTOR_BYTES)
const ExponentBounds<float> kExponentBounds32 = kKnownBounds32;
const ExponentBounds<double> kExponentBounds64 = kKnownBounds64;
#endif

namespace {

using namespace MC_ISA;

constexpr int kBlock = 1024;

enum Function { kExp, kExpMinus1, kExpMinus1MinusX, kSigmoid, kSlope, kSigma, kVarianceMinus1, kKl, kRadius, kCosine, kSine };
constexpr const char* kNames[] = {"exp",   "exp_minus_1",      "exp_minus_1_minus_x", "sigmoid", "sigmoid_slope",
                                  "sigma", "variance_minus_1", "kl",                  "radius",  "cosine",
                                  "sine"};
constexpr int kFunctions = sizeof(kNames) / sizeof(kNames[0]);

struct Worst {
  double error = -1;
  uint32_t at = 0;
};

struct Errors {
  Worst worst[kFunctions];

  void take(Function function, const Worst& one) {
    if (one.error > worst[function].error) worst[function] = one;
  }
};

// Of the last place in single precision.
double unit(double exact) {
  const int exponent = static_cast<int>(bit_cast<uint64_t>(std::fabs(exact)) >> 52) - 1023;
  return bit_cast<double>(static_cast<uint64_t>((exponent < -126 ? -126 : exponent) - 23 + 1023) << 52);
}

// Results may be infinite from 2^127.49 on.
double error_of(float got, double exact) {
  if (std::isnan(exact)) return std::isnan(got) ? 0 : HUGE_VAL;
  if (std::fabs(exact) > 0x1.68p127 && std::isinf(got)) return (got > 0) == (exact > 0) ? 0 : HUGE_VAL;
  if (std::fabs(exact) > 0x1.fffffep127) return HUGE_VAL;
  if (std::fabs(exact) < 0x1p-126 && got == 0) return 0;
  const double error = std::fabs(got - exact) / unit(exact);
  return std::isnan(error) ? HUGE_VAL : error;
}

void take(Errors& errors, Function function, uint32_t at, float got, double exact) {
  errors.take(function, {error_of(got, exact), at});
}

// e^x - 1 - x: near 0 by its series, elsewhere nothing cancels.
double exp_minus_1_minus_x(double x) {
  if (std::fabs(x) > 0.03) return std::expm1(x) - x;
  double sum = 1;
  for (int k = 10; k > 2; --k) sum = 1 + sum * x / k;
  return sum * x * x / 2;
}

// cos of a quarter turn's share, below 1.
double cos_of_quarter(double share) {
  return share < 0.5 ? std::cos(M_PI_2 * share) : std::sin(M_PI_2 * (1 - share));
}

void numbers(const uint32_t* bits, Errors& errors) {
  float x[kBlock];
  for (int i = 0; i < kBlock; ++i) x[i] = bit_cast<float>(bits[i]);
  float exp[kBlock], minus_1[kBlock], minus_1_minus_x[kBlock], weight[kBlock], slope[kBlock];
  float root[kBlock], grown[kBlock], kl[kBlock];
#pragma GCC ivdep
  for (int i = 0; i < kBlock; ++i) {
    const Exponential<float> e = exponential(x[i]);
    exp[i] = e.exp;
    minus_1[i] = e.exp_minus_1;
    minus_1_minus_x[i] = e.exp_minus_1_minus_x;
  }
#pragma GCC ivdep
  for (int i = 0; i < kBlock; ++i) {
    const Gate<float> gate = sigmoid(x[i]);
    weight[i] = gate.weight;
    slope[i] = gate.slope;
  }
#pragma GCC ivdep
  for (int i = 0; i < kBlock; ++i) {
    const Ratio<float> v = variance(x[i]);
    root[i] = v.root;
    grown[i] = times_exp_minus_1(1.0f, v);
    kl[i] = kl_divergence(0.0f, v);
  }
  for (int i = 0; i < kBlock; ++i) {
    const double l = x[i];
    take(errors, kExp, bits[i], exp[i], std::exp(l));
    take(errors, kExpMinus1, bits[i], minus_1[i], std::expm1(l));
    take(errors, kExpMinus1MinusX, bits[i], minus_1_minus_x[i], exp_minus_1_minus_x(l));
    const double e = std::exp(-std::fabs(l));
    take(errors, kSigmoid, bits[i], weight[i], l < 0 ? e / (1 + e) : 1 / (1 + e));
    take(errors, kSlope, bits[i], slope[i], e / ((1 + e) * (1 + e)));
    if (!(std::fabs(l) <= 80)) continue;  // the contract of log variances
    take(errors, kSigma, bits[i], root[i], std::exp(l / 2));
    take(errors, kVarianceMinus1, bits[i], grown[i], std::expm1(l));
    take(errors, kKl, bits[i], kl[i], exp_minus_1_minus_x(l) / 2);
  }
}

void words(const uint32_t* word, Errors& errors) {
  float radius[kBlock], cosine[kBlock], sine[kBlock];
#pragma GCC ivdep
  for (int i = 0; i < kBlock; ++i) radius[i] = normal_radius<float>(word[i]);
  for (int i = 0; i < kBlock; ++i) cos_sin_uniform(word[i], cosine[i], sine[i]);
  for (int i = 0; i < kBlock; ++i) {
    const uint32_t w = word[i], quarter = w >> 30;
    const double above = (4294967295.0 - w) + 0.5;  // log(1 - above / 2^32), exact near 1
    take(errors, kRadius, w, radius[i], std::sqrt(-2 * std::log1p(-above / 4294967296.0)));
    const double share = ((w & 0x3fffffffu) + 0.5) / 1073741824.0;
    const double c = cos_of_quarter(share), s = cos_of_quarter(1 - share);
    take(errors, kCosine, w, cosine[i], quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s);
    take(errors, kSine, w, sine[i], quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c);
  }
}

Errors part(uint64_t begin, uint64_t end, uint64_t stride) {
  Errors errors;
  uint32_t bits[kBlock];
  for (uint64_t at = begin; at < end; at += kBlock * stride) {
    for (uint64_t i = 0; i < kBlock; ++i) {
      const uint64_t own = at + i * stride;
      bits[i] = static_cast<uint32_t>(own < end ? own : begin);
    }
    numbers(bits, errors);
    words(bits, errors);
  }
  return errors;
}

}  // namespace
}  // namespace manifold_core

int main(int, char** arguments) {
  const uint64_t stride = std::strtoull(arguments[1], nullptr, 10), all = uint64_t(1) << 32;
  const uint64_t threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<manifold_core::Errors> found(threads);
  std::vector<std::thread> running;
  for (uint64_t t = 0; t < threads; ++t) {
    running.emplace_back([&, t] { found[t] = manifold_core::part(all * t / threads, all * (t + 1) / threads, stride); });
  }
  for (std::thread& thread : running) thread.join();
  manifold_core::Errors all_errors;
  for (int f = 0; f < manifold_core::kFunctions; ++f) {
    for (const auto& errors : found) all_errors.take(static_cast<manifold_core::Function>(f), errors.worst[f]);
    const manifold_core::Worst& worst = all_errors.worst[f];
    std::printf("%s %.4g %08x\n", manifold_core::kNames[f], worst.error, worst.at);
  }
}
