// How kernels cut their work into tiles whose sizes are constants.
#pragma once

#include <cstdint>

#include "simd.h"

namespace strop::STROP_ISA {

// Calls f.template operator()<n>() for the n in 1..max that equals `value`.
template <int max, typename F>
inline void with_constant(int64_t value, const F& f) {
  if constexpr (max > 0) {
    if (value == max) {
      f.template operator()<max>();
    } else {
      with_constant<max - 1>(value, f);
    }
  }
}

// Cuts `total` into the fewest tiles of at most `most`, equal to within one, and calls f(begin, size).
template <typename F>
inline void balanced_tiles(int64_t total, int64_t most, const F& f) {
  const int64_t tiles = (total + most - 1) / most;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t begin = total * i / tiles, end = total * (i + 1) / tiles;
    f(begin, end - begin);
  }
}

}  // namespace strop::STROP_ISA
