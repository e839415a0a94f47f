// Threads and scratch memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace strop {

inline int64_t threads() { return std::max<int64_t>(1, torch::stable::get_num_threads()); }

// Calls f(thread, begin, end) with [0, items) cut into one contiguous range per thread. Which thread computes an
// item never changes the item's arithmetic, so results do not depend on the number of threads.
template <typename F>
void parallel(int64_t items, const F& f) {
  const int64_t parts = std::min(threads(), items);
  if (parts <= 0) return;
  torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) f(part, items * part / parts, items * (part + 1) / parts);
  });
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
  int32_t* ints(int64_t count) { return reinterpret_cast<int32_t*>(floats(count)); }

 private:
  size_t block_, used_;  // where the arena around this one had got to
};

// Asks for huge pages where the system offers them: a fresh result of many megabytes is touched page by page.
void advise_huge(void* data, size_t bytes);

}  // namespace strop
