#include "team.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <chrono>
#include <exception>

namespace strop {
namespace {

// About what it costs to wake a thread.
constexpr std::chrono::microseconds kSpin{50};
constexpr int kSpinsAtOnce = 32;  // between two looks at the clock

thread_local Team* led = nullptr;
thread_local bool alone = false;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until ready(), for kSpin at most; returns whether it was.
template <typename F>
bool spin(const F& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kSpinsAtOnce; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace

Team::Team(int64_t threads) : ranges_(static_cast<size_t>(threads)) {}

bool Team::take(Range& range, int64_t& chunk) {
  uint64_t left = range.left.load(std::memory_order_relaxed);
  while (left >> 32 < (left & 0xffffffffu)) {
    if (range.left.compare_exchange_weak(left, left + (uint64_t{1} << 32), std::memory_order_acq_rel,
                                         std::memory_order_relaxed)) {
      chunk = static_cast<int64_t>(left >> 32);
      return true;
    }
  }
  return false;
}

// Own chunks first, then those of the others: the cores of a shared machine differ in speed from one millisecond to the
// next.
void Team::work(int64_t thread) {
  const int64_t parts = threads();
  for (int64_t other = 0; other < parts; ++other) {
    Range& range = ranges_[static_cast<size_t>((thread + other) % parts)];
    for (int64_t chunk; take(range, chunk);) {
      run_.load(std::memory_order_relaxed)(loop_.load(std::memory_order_relaxed), thread, chunk);
      if (undone_.fetch_sub(1, std::memory_order_seq_cst) == 1 && leader_sleeps_.load(std::memory_order_seq_cst)) {
        undone_.notify_one();
      }
    }
  }
}

void Team::run(const void* loop, Chunk run, int64_t chunks) {
  loop_.store(loop, std::memory_order_relaxed);
  run_.store(run, std::memory_order_relaxed);
  undone_.store(static_cast<uint32_t>(chunks), std::memory_order_relaxed);
  const int64_t parts = threads();
  for (int64_t part = 0; part < parts; ++part) {
    const auto next = static_cast<uint64_t>(chunks * part / parts), end = static_cast<uint64_t>(chunks * (part + 1) / parts);
    ranges_[static_cast<size_t>(part)].left.store(next << 32 | end, std::memory_order_release);
  }
  posted_.fetch_add(1, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst) != 0) posted_.notify_all();
  work(0);
  const auto done = [this] { return undone_.load(std::memory_order_acquire) == 0; };
  if (spin(done)) return;
  leader_sleeps_.store(true, std::memory_order_seq_cst);
  for (uint32_t undone; (undone = undone_.load(std::memory_order_seq_cst)) != 0;) {
    undone_.wait(undone, std::memory_order_seq_cst);
  }
  leader_sleeps_.store(false, std::memory_order_relaxed);
}

void Team::serve(int64_t thread) {
  for (uint32_t seen = 0;;) {
    const auto posted = [&] { return posted_.load(std::memory_order_acquire) != seen; };
    if (!spin(posted)) {
      sleeping_.fetch_add(1, std::memory_order_seq_cst);
      posted_.wait(seen, std::memory_order_seq_cst);
      sleeping_.fetch_sub(1, std::memory_order_relaxed);
    }
    seen = posted_.load(std::memory_order_acquire);
    if (closed_.load(std::memory_order_relaxed)) return;
    work(thread);
  }
}

void Team::close() {
  closed_.store(true, std::memory_order_relaxed);
  posted_.fetch_add(1, std::memory_order_seq_cst);
  posted_.notify_all();
}

Team* current_team() { return led; }

Alone::Alone() : led_(led), before_(alone) {
  led = nullptr;
  alone = true;
}

Alone::~Alone() {
  led = led_;
  alone = before_;
}

bool is_alone() { return alone; }

void with_team(const void* context, void (*f)(const void*)) {
  const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
  if (led != nullptr || alone || threads <= 1) return f(context);
  Team team(threads);
  std::exception_ptr failure;
  // Where torch runs this in one thread, as inside another of its loops, the leader is alone.
  torch::stable::parallel_for(0, threads, 1, [&](int64_t first, int64_t) {
    if (first != 0) return team.serve(first);
    led = &team;
    try {
      f(context);
    } catch (...) {
      failure = std::current_exception();
    }
    led = nullptr;
    team.close();
  });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace strop
