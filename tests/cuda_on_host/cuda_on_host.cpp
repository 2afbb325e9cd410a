#include "cuda_runtime.h"

#include <csetjmp>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <ucontext.h>
#include <utility>
#include <vector>

namespace cuda_on_host {

namespace {

constexpr size_t kStack = 128 << 10;
constexpr unsigned kWarp = 32;

enum class State { runs, waits_for_block, waits_for_warp, has_ended };

struct Fibre {
  State state = State::has_ended;
  const char* file = "";
  int line = 0;
  unsigned mask = 0;
  uint64_t brought = 0;
  bool started = false;
  jmp_buf place;
  ucontext_t first;
  std::unique_ptr<char[]> stack{new char[kStack]};
};

std::mutex one_launch;
std::vector<std::unique_ptr<Fibre>> fibres;
std::vector<uint64_t> brought_to_warp;  // what the lanes of each warp brought to the shuffle they left last
const std::function<void()>* body = nullptr;
Fibre* current = nullptr;
jmp_buf scheduler;
std::mt19937 shuffler(1);

[[noreturn]] void run_forever() {
  for (;;) {
    (*body)();
    current->state = State::has_ended;
    if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
  }
}

void pause(State state, const char* file, int line) {
  current->state = state;
  current->file = file;
  current->line = line;
  if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

void resume(unsigned thread) {
  current = fibres[thread].get();
  threadIdx.x = thread;
  if (_setjmp(scheduler) != 0) return;
  if (current->started) _longjmp(current->place, 1);
  current->started = true;
  getcontext(&current->first);
  current->first.uc_stack.ss_sp = current->stack.get();
  current->first.uc_stack.ss_size = kStack;
  makecontext(&current->first, run_forever, 0);
  setcontext(&current->first);
}

std::string where(unsigned thread) {
  const Fibre& f = *fibres[thread];
  std::ostringstream text;
  text << "thread " << thread;
  if (f.state == State::has_ended) {
    text << " has ended";
  } else {
    text << " waits for its " << (f.state == State::waits_for_warp ? "warp" : "block") << " at " << f.file << ":" << f.line;
  }
  return text.str();
}

[[noreturn]] void report(const char* kernel, unsigned a, unsigned b) {
  const std::string text = std::string(kernel) + ", block " + std::to_string(blockIdx.x) + ": " + where(a) + ", but " + where(b);
  fibres.clear();  // those that wait stay where they are for ever
  throw std::runtime_error(text);
}

// Lets each warp go on whose lanes have all come to one shuffle.
bool release_warps(const char* kernel, unsigned threads) {
  bool any = false;
  for (unsigned thread = 0; thread < threads; ++thread) {
    if (fibres[thread]->state != State::waits_for_warp) continue;
    const unsigned first = thread / kWarp * kWarp;
    const Fibre& f = *fibres[thread];
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      const unsigned other = first + lane;
      if (!(f.mask >> lane & 1)) continue;
      if (other >= threads) throw std::runtime_error(std::string(kernel) + ": a mask names lanes that are not there");
      const Fibre& o = *fibres[other];
      if (o.state != State::waits_for_warp || o.line != f.line || o.file != f.file || o.mask != f.mask) {
        report(kernel, thread, other);
      }
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!(f.mask >> lane & 1)) continue;
      brought_to_warp[first + lane] = fibres[first + lane]->brought;
      fibres[first + lane]->state = State::runs;
    }
    any = true;
  }
  return any;
}

void run_block(const char* kernel, unsigned threads) {
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0u);
  for (const auto& fibre : fibres) fibre->state = State::runs;
  for (;;) {
    std::shuffle(order.begin(), order.end(), shuffler);
    for (const unsigned thread : order) {
      if (fibres[thread]->state == State::runs) resume(thread);
    }
    if (release_warps(kernel, threads)) continue;
    for (unsigned thread = 1; thread < threads; ++thread) {
      const Fibre &a = *fibres[0], &b = *fibres[thread];
      if (a.state != b.state || (a.state == State::waits_for_block && (a.line != b.line || a.file != b.file))) {
        report(kernel, 0, thread);
      }
    }
    if (fibres[0]->state == State::has_ended) return;
    for (const auto& fibre : fibres) fibre->state = State::runs;
  }
}

}  // namespace

void wait_for_block(const char* file, int line) { pause(State::waits_for_block, file, line); }

const uint64_t* exchange_in_warp(unsigned mask, uint64_t value, const char* file, int line) {
  current->mask = mask;
  current->brought = value;
  const unsigned first = threadIdx.x / kWarp * kWarp;
  pause(State::waits_for_warp, file, line);
  return brought_to_warp.data() + first;
}

void launch(unsigned blocks, unsigned threads, const char* kernel, const std::function<void()>& kernel_body) {
  const std::lock_guard<std::mutex> lock(one_launch);
  while (fibres.size() < threads) fibres.push_back(std::make_unique<Fibre>());
  fibres.resize(threads);
  brought_to_warp.resize(threads);
  body = &kernel_body;
  blockDim = {threads};
  gridDim = {blocks};
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), shuffler);
  for (const unsigned block : order) {
    blockIdx.x = block;
    run_block(kernel, threads);
  }
}

}  // namespace cuda_on_host
