#include "selection.h"

#include <algorithm>

#include "runtime.h"

namespace strop {
namespace {

constexpr int kShift = 24, kBins = 256;  // keys are counted by their highest 8 bits
constexpr int64_t kOperationsOfKey = 8;  // as `grain` counts: a second thread from 25,000 keys on

uint32_t ordered(int32_t key) { return static_cast<uint32_t>(key) ^ 0x80000000u; }

// A key and its position as one number: no two are equal, and the first of equal keys is the smaller.
uint64_t ranked(int32_t key, int64_t at) { return uint64_t{ordered(key)} << 32 | static_cast<uint64_t>(at); }

// `bin_of_last` is scratch for `columns` + 1 numbers.
void smallest_of_row(const int32_t* keys, int64_t columns, int64_t kept, uint64_t* bin_of_last, int32_t* chosen) {
  if (kept == 0) return;
  int64_t counts[kBins] = {};
  for (int64_t i = 0; i < columns; ++i) ++counts[ordered(keys[i]) >> kShift];
  uint32_t bin = 0;
  int64_t before = 0;  // keys in lower bins
  while (before + counts[bin] < kept) before += counts[bin++];
  int64_t count = 0;
  for (int64_t i = 0; i < columns; ++i) {
    if (ordered(keys[i]) >> kShift == bin) bin_of_last[count++] = ranked(keys[i], i);
  }
  uint64_t* last = bin_of_last + (kept - before - 1);
  std::nth_element(bin_of_last, last, bin_of_last + count);
  // Without a branch, which would be guessed wrong every other time; so one place beyond the last is written, too.
  const uint64_t limit = *last;
  auto* positions = reinterpret_cast<int32_t*>(bin_of_last);
  int64_t found = 0;
  for (int64_t i = 0; i < columns; ++i) {
    positions[found] = static_cast<int32_t>(i);
    found += ranked(keys[i], i) <= limit;
  }
  std::copy_n(positions, kept, chosen);
}

}  // namespace

void smallest(const int32_t* keys, int64_t rows, int64_t columns, int64_t kept, int32_t* chosen) {
  Arena arena;
  auto* scratch = reinterpret_cast<uint64_t*>(arena.floats(threads() * 2 * (columns + 1)));
  parallel(rows, grain(rows, 8, columns * kOperationsOfKey), [&](int64_t thread, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      smallest_of_row(keys + r * columns, columns, kept, scratch + thread * (columns + 1), chosen + r * kept);
    }
  });
}

}  // namespace strop
