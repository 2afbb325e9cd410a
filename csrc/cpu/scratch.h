// Memory for tiles.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace manifold_core::cpu {

// Room for tiles, whose rows are aligned as vectors are. This thread keeps what is no more than kKept for the next time:
// one at a time, for a second would be given the same memory.
template <class C>
class Scratch {
 public:
  explicit Scratch(int64_t size) {
    const size_t bytes = (static_cast<size_t>(size) * sizeof(C) + kAlignment - 1) / kAlignment * kAlignment;
    if (bytes > kKept) {
      own_ = allocated(bytes);
      return;
    }
    if (kept_size_ < bytes) {
      kept_.reset();
      kept_size_ = 0;
      kept_ = allocated(bytes);
      kept_size_ = bytes;
    }
  }

  C* data() const { return static_cast<C*>(own_ ? own_.get() : kept_.get()); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  using Memory = std::unique_ptr<void, Free>;

  static constexpr size_t kAlignment = 64, kKept = 16 << 20;

  static Memory allocated(size_t bytes) {
    Memory memory(std::aligned_alloc(kAlignment, bytes));
    STD_TORCH_CHECK(memory != nullptr, "manifold_core: no memory for ", bytes, " bytes of tiles");
    return memory;
  }

  Memory own_;
  static thread_local Memory kept_;
  static thread_local size_t kept_size_;
};

template <class C>
thread_local typename Scratch<C>::Memory Scratch<C>::kept_;
template <class C>
thread_local size_t Scratch<C>::kept_size_ = 0;

}  // namespace manifold_core::cpu
