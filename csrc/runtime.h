// Threads and scratch memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "team.h"

namespace strop {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Threads that run this thread's loops.
inline int64_t threads() {
  if (is_alone()) return 1;
  if (const Team* team = current_team()) return team->threads();
  return std::max<int64_t>(1, torch::stable::get_num_threads());
}

// Calls f(thread, begin, end) until all of [0, items) is done, at most `grain` items at a time, all chunks but the
// last a multiple of it. Each thread has a contiguous range of its own and takes over chunks of the others' when that is
// done. Which thread computes an item never changes the item's arithmetic, so results do not depend on the number of
// threads. `thread` is below threads(), and no two calls of the same `thread` run at once.
template <typename F>
void parallel(int64_t items, int64_t grain, const F& f) {
  grain = std::max(grain, divide_up(items, Team::kMostChunks));
  const int64_t chunks = divide_up(items, grain);
  if (chunks <= 0) return;
  const auto run = [&](int64_t thread, int64_t chunk) {
    f(thread, chunk * grain, std::min(items, (chunk + 1) * grain));
  };
  if (chunks == 1) return run(0, 0);
  with_team([&] {
    if (Team* team = current_team()) {
      team->run(&run, [](const void* loop, int64_t thread, int64_t chunk) {
        (*static_cast<const decltype(run)*>(loop))(thread, chunk);
      }, chunks);
    } else {
      for (int64_t chunk = 0; chunk < chunks; ++chunk) run(0, chunk);
    }
  });
}

// Items in one chunk, each of about `operations` floating-point operations: enough chunks that threads end together, of
// no more than `most` items; but in any case some 3 us of work, or a second thread costs more than it brings.
inline int64_t grain(int64_t items, int64_t most, int64_t operations) {
  const int64_t even = std::clamp<int64_t>(items / (4 * threads()), 1, std::max<int64_t>(most, 1));
  const int64_t pieces = std::max<int64_t>(1, items * operations / kLeastOperations);
  return std::max(even, (items + pieces - 1) / pieces);
}

// Scratch that lives as long as the Arena; arenas nest. The memory behind them is kept by the calling thread for
// its next operation: fresh pages of a 36 MB weight copy cost more than the copy.
class Arena {
 public:
  Arena();
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // `count` floats, aligned to a cache line, not initialised. Throws std::bad_alloc.
  float* floats(int64_t count);
  template <typename T>
  T* many(int64_t count) {
    return reinterpret_cast<T*>(floats(divide_up(count * static_cast<int64_t>(sizeof(T)), sizeof(float))));
  }
  int32_t* ints(int64_t count) { return many<int32_t>(count); }
  int64_t* longs(int64_t count) { return many<int64_t>(count); }

 private:
  size_t block_, used_;  // where the arena around this one had got to
};

// Bytes of a core's second-level cache; 1 MB where the system does not tell.
int64_t l2_bytes();

// Asks for huge pages where the system offers them: a fresh result of many megabytes is touched page by page.
void advise_huge(void* data, size_t bytes);

}  // namespace strop
