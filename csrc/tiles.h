// How kernels cut their work into tiles whose sizes are constants.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels.h"
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

// BP: calls f.template operator()<units, rows>(i, b, ahead) for tiles of kept units from i on and rows from b on; all units
// pass over `block` rows before the next. Kept unit `ahead` is to be fetched meanwhile, unless it is 0: one for each tile,
// as more of them cost small batches, whose data is near, 15 per cent.
template <int unit_tile, int row_tile, typename F>
inline void dot_tiles(int64_t rows, int64_t block, int64_t kept, const F& f) {
  for (int64_t b0 = 0; b0 < rows; b0 += block) {
    for (int64_t i = 0; i < kept; i += unit_tile) {
      int64_t tile = 0;
      balanced_tiles(std::min(block, rows - b0), row_tile, [&](int64_t b, int64_t size) {
        const int64_t next = i + unit_tile + tile;
        const int64_t ahead = b0 == 0 && tile < unit_tile && next < kept ? next : 0;
        with_constant<unit_tile>(std::min<int64_t>(unit_tile, kept - i), [&]<int u>() {
          with_constant<row_tile>(size, [&]<int r>() { f.template operator()<u, r>(i, b0 + b, ahead); });
        });
        ++tile;
      });
    }
  }
}

}  // namespace strop::STROP_ISA
