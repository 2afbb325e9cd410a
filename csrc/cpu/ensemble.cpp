// The engine: models side by side, each on a team of threads. If there are enough models, each team is one thread;
// else the groups of a model's batch are shared out. Results do not depend on which thread works on what.
#include "kernels.h"
#include "ops.h"

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace manifold_core::cpu {

namespace {

constexpr int64_t kMostGroups = 64;
constexpr int64_t kMostThreads = 65536;
constexpr int64_t kSlices = 8;  // that the steps of one call are cut into: models advance together, threads end together

struct FreeAligned {
  void operator()(void* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};

template <class T>
using Memory = std::unique_ptr<T[], FreeAligned>;

template <class T>
Memory<T> allocate_aligned(int64_t count) {
  return Memory<T>(static_cast<T*>(::operator new[](sizeof(T) * static_cast<size_t>(count), std::align_val_t{64})));
}

// A step takes some ten microseconds: threads that wait for each other stay awake for a while.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}

  void wait() {
    if (threads_ == 1) return;
    const unsigned round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      if (spins < 10000) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  const int threads_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> round_{0};
};

// Flushes subnormal numbers to zero: the moments of weights without a gradient pass through them
// on their way to it, and each would cost more than a hundred cycles.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | 0x8040); }
  ~FlushSubnormals() { __builtin_ia32_ldmxcsr(before_); }

 private:
  const unsigned before_;
#else
  FlushSubnormals() {}
#endif
};

int64_t tiles_of(const Model& m) { return (m.batch + kColumns - 1) / kColumns; }
int64_t groups_of(const Model& m) { return std::min(tiles_of(m), kMostGroups); }
int64_t* state_of(const Model& m) { return reinterpret_cast<int64_t*>(m.state); }
bool is_over(const Model& m) { return state_of(m)[0] >= m.steps || state_of(m)[1] != 0; }

// The models, of which every one is to advance by so many steps.
class Queue {
 public:
  Queue(const Model* models, int64_t count, int64_t steps) : slice_((steps + kSlices - 1) / kSlices) {
    for (int64_t i = 0; i < count; ++i) {
      if (!is_over(models[i])) waiting_.push_back({models + i, steps});
    }
  }

  struct Work {
    const Model* model = nullptr;
    int64_t steps = 0;
  };

  int64_t size() const { return static_cast<int64_t>(waiting_.size()); }

  // The model that has most steps before it, and how many to do now; none when all are done or in hand.
  Work take(const Work& done) {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (done.model && done.steps > slice_ && !is_over(*done.model)) waiting_.push_back({done.model, done.steps - slice_});
    if (waiting_.empty()) return {};
    size_t most = 0;
    for (size_t i = 1; i < waiting_.size(); ++i) {
      if (waiting_[i].steps > waiting_[most].steps) most = i;
    }
    const Work found = waiting_[most];
    waiting_.erase(waiting_.begin() + static_cast<int64_t>(most));
    return found;
  }

  int64_t slice(const Work& work) const { return work.steps < slice_ ? work.steps : slice_; }

 private:
  const int64_t slice_;
  std::mutex mutex_;
  std::vector<Work> waiting_;
};

// Elements of memory that a team needs for any of these models.
struct Sizes {
  int64_t tile = 0, gradients = 0, sums = 0;
  int64_t groups = 1;  // the most: more threads have nothing to do

  Sizes(const Model* models, int64_t count) {
    for (const Model* m = models; m < models + count; ++m) {
      tile = std::max(tile, m->rows * kPitch);
      groups = std::max(groups, groups_of(*m));
      gradients = std::max(gradients, groups_of(*m) * m->parameter_count);
      sums = std::max(sums, groups_of(*m) * (kSums + m->latents));
    }
  }
};

class Team {
 public:
  Team(int threads, const Sizes& sizes)
      : threads_(threads),
        barrier_(threads),
        gradients_(allocate_aligned<float>(sizes.gradients)),
        sums_(allocate_aligned<double>(sizes.sums)) {
    for (int i = 0; i < threads; ++i) tiles_.push_back(allocate_aligned<float>(sizes.tile));
  }

  int threads() const { return threads_; }

  // Every member calls this.
  void work(Queue& queue, int member) {
    const FlushSubnormals flush;
    for (;;) {
      if (member == 0) work_ = queue.take(work_);
      barrier_.wait();
      if (work_.model == nullptr) return;
      advance(*work_.model, queue.slice(work_), member);
      barrier_.wait();
    }
  }

 private:
  void advance(const Model& m, int64_t steps, int member) {
    const EnsembleKernels& kernels = instruction_set().ensemble;
    const int64_t groups = groups_of(m), begin = state_of(m)[0];
    const int64_t end = begin + steps < m.steps ? begin + steps : m.steps;
    float* const parameters = reinterpret_cast<float*>(m.parameters);
    barrier_.wait();  // all have read the state before the first writes it
    for (int64_t i = begin; i < end; ++i) {
      const bool recorded = (i + 1) % m.record_every == 0 || i + 1 == m.steps;
      EnsembleStep step{&m, i, parameters[m.log_gamma], recorded};
      if (m.gamma == kAnalytic) {
        for (int64_t g = member; g < groups; g += threads_) kernels.squared_error(step, group(m, g, member));
        barrier_.wait();
        step.log_gamma = std::log(total(m, 0) / static_cast<double>(m.batch * m.features));
        barrier_.wait();
      }
      for (int64_t g = member; g < groups; g += threads_) kernels.gradient(step, group(m, g, member));
      barrier_.wait();
      const double squared_error = total(m, 0) / static_cast<double>(m.batch), kl = total(m, 1) / static_cast<double>(m.batch);
      const double inv_gamma = std::exp(-step.log_gamma);
      const double features = static_cast<double>(m.features), scaled = squared_error * inv_gamma;
      const double nll = 0.5 * (scaled + features * (std::log(2 * M_PI) + step.log_gamma));
      // Gradients, in float, are not finite if either is not.
      if (!std::isfinite(static_cast<float>(nll + kl)) || !std::isfinite(static_cast<float>(inv_gamma))) {
        if (member == 0) state_of(m)[1] = i + 1;
        return;
      }
      if (member == 0 && recorded) record(m, i, nll, kl, squared_error, step.log_gamma);
      // Whole cache lines to each.
      const int64_t lines = (m.parameter_count + 15) / 16;
      const int64_t first = lines * member / threads_ * 16, last = lines * (member + 1) / threads_ * 16;
      kernels.update(step, gradients_.get(), groups, static_cast<float>(0.5 * (features - scaled)), first,
                     std::min(last, m.parameter_count));
      if (member == 0) {
        if (m.gamma == kAnalytic) parameters[m.log_gamma] = static_cast<float>(step.log_gamma);
        state_of(m)[0] = i + 1;
      }
      barrier_.wait();
    }
  }

  EnsembleGroup group(const Model& m, int64_t g, int member) const {
    const int64_t tiles = tiles_of(m), groups = groups_of(m);
    return {g * tiles / groups * kColumns, std::min((g + 1) * tiles / groups * kColumns, m.batch),
            gradients_.get() + g * m.parameter_count, sums_.get() + g * (kSums + m.latents), tiles_[member].get()};
  }

  double total(const Model& m, int64_t which) const {
    double sum = 0;
    for (int64_t g = 0; g < groups_of(m); ++g) sum += sums_[g * (kSums + m.latents) + which];
    return sum;
  }

  void record(const Model& m, int64_t step, double nll, double kl, double squared_error, double log_gamma) const {
    float* const at = reinterpret_cast<float*>(m.records) + step / m.record_every * (kRecorded + m.latents);
    const double numbers[kRecorded] = {nll, kl, squared_error, log_gamma};
    for (int i = 0; i < kRecorded; ++i) at[i] = static_cast<float>(numbers[i]);
    for (int64_t j = 0; j < m.latents; ++j) at[kRecorded + j] = static_cast<float>(total(m, kSums + j) / static_cast<double>(m.batch));
  }

  const int threads_;
  Barrier barrier_;
  Queue::Work work_;
  std::vector<Memory<float>> tiles_;
  Memory<float> gradients_;
  Memory<double> sums_;
};

const Model* models_of(const Tensor& words) {
  STD_TORCH_CHECK(words.dim() == 2 && words.size(1) == kModelWords && words.is_contiguous() &&
                      words.scalar_type() == torch::headeronly::ScalarType::Long,
                  "manifold_core: models must be int64 [M, ", kModelWords, "], dense");
  return static_cast<const Model*>(words.const_data_ptr());
}

void check_threads(int64_t threads) {
  STD_TORCH_CHECK(threads >= 1 && threads <= kMostThreads, "manifold_core: threads must lie between 1 and ", kMostThreads,
                  ", got ", threads);
}

// Threads wait until all of them are there: a team cannot do without one.
class Start {
 public:
  bool wait() {
    int state;
    while ((state = state_.load(std::memory_order_acquire)) == 0) std::this_thread::yield();
    return state > 0;
  }
  void tell(bool go) { state_.store(go ? 1 : -1, std::memory_order_release); }

 private:
  std::atomic<int> state_{0};
};

}  // namespace

int64_t ensemble_workspace(const Tensor& models, int64_t threads) {
  check_threads(threads);
  const Sizes sizes(models_of(models), models.size(0));
  const int64_t teams = std::min(threads, models.size(0));
  return threads * sizes.tile * 4 + teams * (sizes.gradients * 4 + sizes.sums * 8);
}

void ensemble_steps(const Tensor& models, int64_t steps, int64_t threads) {
  const Model* const first = models_of(models);
  STD_TORCH_CHECK(steps >= 0, "manifold_core: steps must not be negative, got ", steps);
  check_threads(threads);
  Queue queue(first, models.size(0), steps);
  if (queue.size() == 0 || steps == 0) return;
  const Sizes sizes(first, models.size(0));
  const int64_t teams = std::min(threads, queue.size());
  std::vector<std::unique_ptr<Team>> all;
  for (int64_t t = 0; t < teams; ++t) {
    const int64_t members = std::min(threads * (t + 1) / teams - threads * t / teams, sizes.groups);
    all.push_back(std::make_unique<Team>(static_cast<int>(members), sizes));
  }
  Start start;
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(threads));
  bool started = true;
  try {
    for (const auto& team : all) {
      for (int member = 0; member < team->threads(); ++member) {
        if (team == all.front() && member == 0) continue;  // the caller's own
        others.emplace_back([&, member, of = team.get()] {
          if (start.wait()) of->work(queue, member);
        });
      }
    }
  } catch (...) {  // of the threads that run, none may be left behind
    started = false;
  }
  start.tell(started);
  if (started) all.front()->work(queue, 0);
  for (std::thread& other : others) other.join();
  STD_TORCH_CHECK(started, "manifold_core: threads must be a number that the system can start, got ", threads);
}

}  // namespace manifold_core::cpu
