// Threads that run the parallel loops of one operation together.
//
// An operation over a sequence has some hundred loops, one or two for each time step. A loop is done when its chunks are,
// not when every thread has come by: beside other work a thread may be off its core for milliseconds, and nobody waits for it
// unless it holds a chunk. A thread that waits spins for some microseconds, then sleeps and so leaves its core to others.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace strop {

class Team {
 public:
  using Chunk = void (*)(const void* loop, int64_t thread, int64_t chunk);

  explicit Team(int64_t threads);
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int64_t threads() const { return static_cast<int64_t>(ranges_.size()); }

  // The leader, thread 0: calls run(loop, thread, chunk) for every chunk, on all threads that are there, and returns when
  // these calls have.
  void run(const void* loop, Chunk run, int64_t chunks);

  // Any other thread: helps with the leader's loops until `close`.
  void serve(int64_t thread);

  void close();

  static constexpr int64_t kMostChunks = int64_t{1} << 31;

 private:
  // The chunks [next, end) that are left of a thread's own, as next << 32 | end: one number, so that a thread that comes
  // late takes a chunk of the loop that is under way, or none.
  struct alignas(64) Range {
    std::atomic<uint64_t> left{0};
  };

  bool take(Range& range, int64_t& chunk);
  void work(int64_t thread);

  std::vector<Range> ranges_;
  // Written before the ranges, read after a chunk was taken of them: while a chunk is not done they stay.
  std::atomic<const void*> loop_{nullptr};
  std::atomic<Chunk> run_{nullptr};
  alignas(64) std::atomic<uint32_t> posted_{0};  // loops so far
  std::atomic<uint32_t> sleeping_{0};
  std::atomic<bool> closed_{false};
  alignas(64) std::atomic<uint32_t> undone_{0};  // chunks of this loop
  std::atomic<bool> leader_sleeps_{false};
};

// The team that the calling thread leads, or null.
Team* current_team();

// While it lives, the loops of the calling thread have no other thread.
class Alone {
 public:
  Alone();
  ~Alone();
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;

 private:
  Team* led_;
  bool before_;
};

bool is_alone();

// Less is not worth a second thread: some 3 us of work for each.
constexpr int64_t kLeastOperations = 300'000;

// Runs f() with a team of torch's threads for the loops in it, if there are several. The others come when they can. Within
// another team this is f() alone.
void with_team(const void* context, void (*f)(const void*));

template <typename F>
void with_team(const F& f) {
  with_team(&f, [](const void* context) { (*static_cast<const F*>(context))(); });
}

// The same where the loops, of so many operations each, are worth several threads; else f() alone.
template <typename F>
void with_team_for(int64_t operations, const F& f) {
  operations >= 2 * kLeastOperations ? with_team(f) : f();
}

}  // namespace strop
