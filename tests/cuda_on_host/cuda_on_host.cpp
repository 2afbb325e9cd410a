#include "cuda_runtime.h"

#include <algorithm>
#include <atomic>
#include <csetjmp>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <ucontext.h>
#include <utility>
#include <vector>

namespace cuda_on_host {

namespace {

constexpr size_t kStack = 128 << 10;
constexpr unsigned kWarp = 32;
constexpr size_t kBehind = 1024;  // bytes behind a block's shared memory that nobody may write

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
std::atomic<unsigned> seeds{1};
std::atomic<bool> failed{false};  // a block of those that run together

// Of the block that a thread runs.
thread_local std::vector<std::unique_ptr<Fibre>> fibres;
thread_local std::vector<uint64_t> brought_to_warp;  // what the lanes of each warp brought to the shuffle they left last
thread_local const std::function<void()>* body = nullptr;
thread_local std::unique_ptr<unsigned char[]> shared_memory;  // aligned to 16 bytes, as all that is new
thread_local Fibre* current = nullptr;
thread_local jmp_buf scheduler;
thread_local std::mt19937 shuffler(seeds++);

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
    const char* const others = f.state == State::waits_for_warp ? "warp" : "block";
    text << " waits for its " << others << " at " << f.file << ":" << f.line;
  }
  return text.str();
}

[[noreturn]] void report(const char* kernel, unsigned a, unsigned b) {
  std::ostringstream text;
  text << kernel << ", block " << blockIdx.x << ": " << where(a) << ", but " << where(b);
  fibres.clear();  // those that wait stay where they are for ever
  throw std::runtime_error(text.str());
}

// Lets the warp go on, if its lanes have all come to one shuffle. Returns whether any of them can run.
bool release_warp(const char* kernel, unsigned first) {
  const auto lane = [&](unsigned i) -> Fibre& { return *fibres[first + i]; };
  unsigned waiting = kWarp;
  for (unsigned i = 0; i < kWarp; ++i) {
    if (lane(i).state == State::runs) return true;
    if (lane(i).state == State::waits_for_warp) waiting = i;
  }
  if (waiting == kWarp) return false;
  const Fibre& f = lane(waiting);
  for (unsigned i = 0; i < kWarp; ++i) {
    const Fibre& o = lane(i);
    if (!(f.mask >> i & 1)) continue;
    if (o.state != State::waits_for_warp || o.line != f.line || o.file != f.file || o.mask != f.mask) {
      report(kernel, first + waiting, first + i);
    }
  }
  for (unsigned i = 0; i < kWarp; ++i) {
    if (!(f.mask >> i & 1)) continue;
    brought_to_warp[first + i] = lane(i).brought;
    lane(i).state = State::runs;
  }
  return true;
}

// Warps run ahead of each other, and lanes of each other, as far as what they wait for lets them: each time it is drawn
// anew who runs next.
void run_block(const char* kernel, unsigned threads) {
  std::vector<unsigned> able;  // the warps of which a lane can run
  for (;;) {
    for (const auto& fibre : fibres) fibre->state = State::runs;
    for (unsigned warp = 0; warp < threads / kWarp; ++warp) able.push_back(warp);
    while (!able.empty()) {
      const unsigned random = shuffler();
      unsigned& warp = able[random % able.size()];
      const unsigned first = random >> 8, step = random >> 16 | 1;  // odd: it comes to every lane
      for (unsigned i = 0; i < kWarp; ++i) {
        const unsigned thread = warp * kWarp + (first + i * step) % kWarp;
        if (fibres[thread]->state == State::runs) resume(thread);
      }
      if (!release_warp(kernel, warp * kWarp)) {
        warp = able.back();
        able.pop_back();
      }
    }
    for (unsigned thread = 1; thread < threads; ++thread) {
      const Fibre &a = *fibres[0], &b = *fibres[thread];
      if (a.state != b.state || (a.state == State::waits_for_block && (a.line != b.line || a.file != b.file))) {
        report(kernel, 0, thread);
      }
    }
    if (fibres[0]->state == State::has_ended) return;
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

unsigned char* dynamic_shared() { return shared_memory.get(); }

namespace {

void check_launch(unsigned threads, size_t shared, const char* kernel) {
  if (shared > static_cast<size_t>(shared_limit)) {
    throw std::runtime_error(std::string(kernel) + ": too much shared memory");
  }
  if (threads % kWarp != 0) throw std::runtime_error(std::string(kernel) + ": a block has to be of whole warps");
}

void launch_block(unsigned block, unsigned blocks, unsigned threads, size_t shared, const char* kernel,
                  const std::function<void()>& kernel_body) {
  while (fibres.size() < threads) fibres.push_back(std::make_unique<Fibre>());
  fibres.resize(threads);
  brought_to_warp.resize(threads);
  body = &kernel_body;
  blockDim = {threads};
  gridDim = {blocks};
  blockIdx.x = block;
  shared_memory.reset(new unsigned char[shared + kBehind]);
  std::fill_n(shared_memory.get(), shared + kBehind, 0xff);
  run_block(kernel, threads);
  const auto* const end = shared_memory.get() + shared;
  if (std::any_of(end, end + kBehind, [](unsigned char byte) { return byte != 0xff; })) {
    throw std::runtime_error(std::string(kernel) + ": writes behind its shared memory");
  }
}

}  // namespace

void wait_for_others(const char* file, int line) {
  if (failed) pause(State::waits_for_block, file, line);  // for ever
  std::this_thread::yield();
}

void launch(unsigned blocks, unsigned threads, size_t shared, const char* kernel,
            const std::function<void()>& kernel_body) {
  const std::lock_guard<std::mutex> lock(one_launch);
  check_launch(threads, shared, kernel);
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), shuffler);
  for (const unsigned block : order) launch_block(block, blocks, threads, shared, kernel, kernel_body);
}

bool launch_together(unsigned blocks, unsigned threads, size_t shared, const char* kernel,
                     const std::function<void()>& kernel_body) {
  const std::lock_guard<std::mutex> lock(one_launch);
  check_launch(threads, shared, kernel);
  if (blocks > static_cast<unsigned>(multiprocessors - taken)) return false;
  failed = false;
  std::mutex one_error;
  std::exception_ptr error;
  std::vector<std::thread> running;
  for (unsigned block = 0; block < blocks; ++block) {
    running.emplace_back([&, block] {
      try {
        launch_block(block, blocks, threads, shared, kernel, kernel_body);
      } catch (...) {
        const std::lock_guard<std::mutex> first(one_error);
        if (!failed.exchange(true)) error = std::current_exception();
      }
    });
  }
  for (std::thread& thread : running) thread.join();
  if (error) std::rethrow_exception(error);
  return true;
}

}  // namespace cuda_on_host
