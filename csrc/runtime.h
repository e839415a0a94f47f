// Threads and scratch memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace strop {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t threads() { return std::max<int64_t>(1, torch::stable::get_num_threads()); }

// Calls f(thread, begin, end) until all of [0, items) is done, at most `grain` items at a time, all chunks but the
// last a multiple of it. Each thread has a contiguous range of its own and takes over chunks of the others' when that is
// done: the cores of a shared machine differ in speed from one millisecond to the next. Which thread computes an item
// never changes the item's arithmetic, so results do not depend on the number of threads. `thread` is below
// threads(), and no two calls of the same `thread` run at once.
template <typename F>
void parallel(int64_t items, int64_t grain, const F& f) {
  struct alignas(64) Range {
    std::atomic<int64_t> next;
    int64_t end;
  };
  const int64_t chunks = (items + grain - 1) / grain, parts = std::min(threads(), chunks);
  if (parts <= 0) return;
  std::vector<Range> ranges(static_cast<size_t>(parts));
  for (int64_t part = 0; part < parts; ++part) {
    ranges[part].next.store(chunks * part / parts, std::memory_order_relaxed);
    ranges[part].end = chunks * (part + 1) / parts;
  }
  torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      for (int64_t other = 0; other < parts; ++other) {
        Range& range = ranges[(part + other) % parts];
        for (int64_t chunk; (chunk = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;) {
          f(part, chunk * grain, std::min(items, (chunk + 1) * grain));
        }
      }
    }
  });
}

// Items in one chunk, each of about `operations` floating-point operations: enough chunks that threads end together, of
// no more than `most` items; but in any case some 3 us of work, or a second thread costs more than it brings.
inline int64_t grain(int64_t items, int64_t most, int64_t operations) {
  constexpr int64_t kLeastOperations = 300'000;
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

// Asks for huge pages where the system offers them: a fresh result of many megabytes is touched page by page.
void advise_huge(void* data, size_t bytes);

}  // namespace strop
