// Compiled once per instruction set with STROP_ISA (a namespace), STROP_WIDTH (floats in a vector) and the tile
// sizes that fit its registers.
#include "kernels.h"

#include <algorithm>
#include <limits>

#include "simd.h"
#include "tiles.h"

namespace strop::STROP_ISA {
namespace {

#if STROP_WIDTH == 16
constexpr int kRowTile = 6;      // FP: rows of the batch held in registers
constexpr int kColumnTile = 4;   // FP and WG: vectors of a panel held in registers
constexpr int kUnitTile = 6;     // WG: units
constexpr int kDotUnitTile = 6;  // BP: units
constexpr int kDotRowTile = 4;   // BP: rows of the batch
// FP: units summed in registers before they join the sum in memory: a sum of partial sums rounds less than one long chain.
// 96 are 3 per cent faster here than the 64 of AVX2, which are 16 KB of a panel and fit an L1 of 32 KB with their x.
constexpr int64_t kSumUnits = 96;
// WG: whether a tile's gradients are asked for as it begins: 3 per cent faster here, up to 15 slower with AVX2.
constexpr bool kFetchSums = true;
#else
constexpr int kRowTile = 6;
constexpr int kColumnTile = 2;
constexpr int kUnitTile = 6;
constexpr int kDotUnitTile = 4;
constexpr int kDotRowTile = 3;
constexpr int64_t kSumUnits = 64;
constexpr bool kFetchSums = false;
#endif
constexpr int kVectors = kPanel / kWidth;
constexpr int64_t kLine = 16;    // floats in a cache line
constexpr int64_t kSumRows = 256;    // WG: rows of the batch summed in registers: 700 of them in one chain round twice as much
constexpr int64_t kTilesAhead = 3;   // WG: how far ahead x is asked for
constexpr int64_t kDotRows = 40;     // BP: rows of dy that stay in L1 and L2 while units pass over them

void pack(const float* plain, int64_t plain_stride, const PanelRows& rows, int64_t units, float* panel,
          int64_t panel_stride) {
  for (int group = 0; group < 4; ++group) {
    for (int64_t part = 0; part < kGroup; part += kWidth) {
      const int64_t valid = std::clamp<int64_t>(rows.valid[group] - part, 0, kWidth);
      const float* source = plain + (rows.first[group] + part) * plain_stride;
      float* target = panel + group * kGroup + part;
      int64_t unit = 0;
      for (; unit + kWidth <= units; unit += kWidth) {
        Vec tile[kWidth];
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) tile[i] = i < valid ? load(source + i * plain_stride + unit) : Vec{};
        transpose(tile);
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) store(target + (unit + i) * panel_stride, tile[i]);
      }
      for (; unit < units; ++unit) {
        for (int i = 0; i < kWidth; ++i) {
          target[unit * panel_stride + i] = i < valid ? source[i * plain_stride + unit] : 0.0f;
        }
      }
    }
  }
}

void unpack(const float* panel, const PanelRows& rows, int64_t units, float* plain, int64_t plain_stride) {
  for (int group = 0; group < 4; ++group) {
    for (int64_t part = 0; part < kGroup; part += kWidth) {
      const int64_t valid = std::clamp<int64_t>(rows.valid[group] - part, 0, kWidth);
      const float* source = panel + group * kGroup + part;
      float* target = plain + (rows.first[group] + part) * plain_stride;
      int64_t unit = 0;
      for (; unit + kWidth <= units; unit += kWidth) {
        Vec tile[kWidth];
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) tile[i] = load(source + (unit + i) * kPanel);
        transpose(tile);
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) {
          if (i < valid) store(target + i * plain_stride + unit, tile[i]);
        }
      }
      for (; unit < units; ++unit) {
        for (int64_t i = 0; i < valid; ++i) target[i * plain_stride + unit] = source[unit * kPanel + i];
      }
    }
  }
}

// Asks for 64 floats, `level` as in __builtin_prefetch: 3 for L1, 1 for the outer caches.
template <int level>
STROP_INLINE void fetch_row(const float* row) {
  for (int64_t l = 0; l < kPanel; l += kLine) __builtin_prefetch(row + l, 0, level);
}

// `fetch(i)` asks for what comes later, while kept unit i is at work.
template <int rows, typename Fetch>
STROP_INLINE void forward_tile(const float* x, int64_t x_stride, const int32_t* keep, int64_t kept,
                               const float* panel, float* out, const Fetch& fetch) {
  for (int column = 0; column < kVectors; column += kColumnTile) {
    Vec sum[rows][kColumnTile] = {};
    for (int64_t i = 0; i < kept; ++i) {
      const float* row = panel + keep[i] * kPanel + column * kWidth;
      const float* xi = x + i * x_stride;
      if (column == 0) fetch(i);
      Vec w[kColumnTile];
#pragma GCC unroll 4
      for (int v = 0; v < kColumnTile; ++v) w[v] = load(row + v * kWidth);
#pragma GCC unroll 8
      for (int b = 0; b < rows; ++b) {
        const Vec factor = set1(xi[b]);
#pragma GCC unroll 4
        for (int v = 0; v < kColumnTile; ++v) sum[b][v] += factor * w[v];
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < rows; ++b)
#pragma GCC unroll 4
      for (int v = 0; v < kColumnTile; ++v) {
        float* target = out + b * kPanel + (column + v) * kWidth;
        store(target, load(target) + sum[b][v]);
      }
  }
}

void forward(const float* x, int64_t x_stride, const int32_t* keep, int64_t from, int64_t to, const float* panel,
             int64_t rows, float* out, const float* ahead) {
  x += from * x_stride;
  keep += from;
  const int64_t kept = to - from;
  const int64_t tiles = (rows + kRowTile - 1) / kRowTile;
  for (int64_t i = 0; i < kept; i += kSumUnits) {
    const int64_t units = std::min(kSumUnits, kept - i);
    const float* next_x = x + (i + units) * x_stride;
    const int64_t lines = (units * x_stride / kLine + tiles - 1) / tiles;  // of next_x for each tile
    int64_t tile = 0;
    balanced_tiles(rows, kRowTile, [&](int64_t b, int64_t size) {
      const float* xi = x + i * x_stride + b;
      with_constant<kRowTile>(size, [&]<int n>() {
        if (ahead != nullptr) {
          // Each tile of the batch fetches its share of the next panel's rows, whole rows at a time.
          int64_t turn = tile;
          forward_tile<n>(xi, x_stride, keep + i, units, panel, out + b * kPanel,
                          [&](int64_t unit) __attribute__((always_inline)) {
                            if (--turn >= 0) return;
                            turn = tiles - 1;
                            fetch_row<1>(ahead + keep[i + unit] * kPanel);
                          });
        } else {
          const float* share = next_x + tile * lines * kLine;
          forward_tile<n>(xi, x_stride, keep + i, units, panel, out + b * kPanel,
                          [&](int64_t unit) __attribute__((always_inline)) {
                            if (unit < lines) __builtin_prefetch(share + unit * kLine, 0, 2);
                          });
        }
      });
      ++tile;
    });
  }
}

// The rows' vectors stay in registers while each unit's is read once: with AVX-512 24 of 32 registers hold sums, else
// 12 of 16. `ahead`, when not null, is a row of the slice to be asked for meanwhile. Not inlined: GCC 12 would keep sums in memory.
template <int units, int rows>
__attribute__((noinline)) void dot_tile(const float* dy, int64_t dy_panel, const float* slice, int64_t panels,
                                        const int32_t* keep, const float* ahead, float* out, int64_t out_stride) {
  const float* row[units];
#pragma GCC unroll 8
  for (int i = 0; i < units; ++i) row[i] = slice + keep[i] * panels * kPanel;
  Vec sum[rows][units] = {};
  for (int64_t p = 0; p < panels; ++p) {
    if (ahead != nullptr) fetch_row<3>(ahead + p * kPanel);
    for (int64_t at = p * kPanel; at < (p + 1) * kPanel; at += kWidth) {
      Vec d[rows];
#pragma GCC unroll 4
      for (int b = 0; b < rows; ++b) d[b] = in_register(load(dy + p * (dy_panel - kPanel) + b * kPanel + at));
#pragma GCC unroll 8
      for (int i = 0; i < units; ++i) {
        const Vec w = in_register(load(row[i] + at));
#pragma GCC unroll 4
        for (int b = 0; b < rows; ++b) sum[b][i] += d[b] * w;
      }
    }
  }
#pragma GCC unroll 4
  for (int b = 0; b < rows; ++b) add_lanes<units>(sum[b], out + b * out_stride);
}

void input_grad(const float* dy, int64_t dy_panel, int64_t rows, const float* slice, int64_t panels,
                const int32_t* keep, int64_t kept, float* out, int64_t out_stride) {
  dot_tiles<kDotUnitTile, kDotRowTile>(rows, kDotRows, kept, [&]<int u, int r>(int64_t i, int64_t b, int64_t ahead) {
    dot_tile<u, r>(dy + b * kPanel, dy_panel, slice, panels, keep + i,
                   ahead == 0 ? nullptr : slice + keep[ahead] * panels * kPanel, out + b * out_stride + i, out_stride);
  });
}

template <int units>
STROP_INLINE void grad_tile(const float* x, int64_t x_stride, const int32_t* keep, const float* dy, int64_t rows,
                      float* grad) {
  const int64_t lines = units * x_stride / kLine;  // of x for each tile
  for (int column = 0; column < kVectors; column += kColumnTile) {
    Vec sum[units][kColumnTile] = {};
    for (int64_t b = 0; b < rows; ++b) {
      if (column == 0 && b < lines) __builtin_prefetch(x + kTilesAhead * units * x_stride + b * kLine, 0, 3);
      if (kFetchSums && column == 0 && b < units && rows > 2 * units) fetch_row<3>(grad + keep[b] * kPanel);
      Vec d[kColumnTile];
#pragma GCC unroll 4
      for (int v = 0; v < kColumnTile; ++v) d[v] = load(dy + b * kPanel + (column + v) * kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < units; ++i) {
        const Vec factor = set1(x[i * x_stride + b]);
#pragma GCC unroll 4
        for (int v = 0; v < kColumnTile; ++v) sum[i][v] += factor * d[v];
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < units; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kColumnTile; ++v) {
        float* target = grad + keep[i] * kPanel + (column + v) * kWidth;
        store(target, load(target) + sum[i][v]);
      }
  }
}

void weight_grad(const float* x, int64_t x_stride, const int32_t* keep, int64_t kept, const float* dy, int64_t rows,
                 float* grad) {
  balanced_tiles(rows, kSumRows, [&](int64_t done, int64_t some) {
    balanced_tiles(kept, kUnitTile, [&](int64_t i, int64_t size) {
      with_constant<kUnitTile>(size, [&]<int n>() {
        grad_tile<n>(x + i * x_stride + done, x_stride, keep + i, dy + done * kPanel, some, grad);
      });
    });
  });
}

template <int units, int rows>
STROP_INLINE void plain_dot_tile(const float* x, int64_t x_stride, const float* w, int64_t w_stride, int64_t length,
                                 float* out, int64_t out_stride) {
  Vec sum[rows][units] = {};
  const auto add = [&](int64_t j, const auto& lanes) __attribute__((always_inline)) {
    Vec d[rows];
#pragma GCC unroll 4
    for (int b = 0; b < rows; ++b) d[b] = in_register(lanes(load(x + b * x_stride + j)));
#pragma GCC unroll 8
    for (int i = 0; i < units; ++i) {
      const Vec wi = in_register(lanes(load(w + i * w_stride + j)));
#pragma GCC unroll 4
      for (int b = 0; b < rows; ++b) sum[b][i] += d[b] * wi;
    }
  };
  int64_t j = 0;
  for (; j + kWidth <= length; j += kWidth) add(j, [](Vec v) __attribute__((always_inline)) { return v; });
  if (j > 0 && j < length) {
    add(length - kWidth, [&](Vec v) __attribute__((always_inline)) { return last_lanes(v, length - j); });
    j = length;
  }
#pragma GCC unroll 4
  for (int b = 0; b < rows; ++b) {
    for (int i = 0; j < length && i < units; ++i) {  // fewer than a vector
      float rest = 0.0f;
      for (int64_t k = j; k < length; ++k) rest += x[b * x_stride + k] * w[i * w_stride + k];
      out[b * out_stride + i] += rest;
    }
    add_lanes<units>(sum[b], out + b * out_stride);
  }
}

void plain_dot(const float* x, int64_t x_stride, int64_t rows, const float* w, int64_t w_stride, int64_t count,
               int64_t length, float* out, int64_t out_stride) {
  dot_tiles<kDotUnitTile, kDotRowTile>(rows, rows, count, [&]<int u, int r>(int64_t i, int64_t b, int64_t) {
    plain_dot_tile<u, r>(x + b * x_stride, x_stride, w + i * w_stride, w_stride, length, out + b * out_stride + i,
                         out_stride);
  });
}

void narrow(const float* from, int64_t count, float* to) { std::copy_n(from, count, to); }

void column_sums(const float* dy, int64_t rows, float* sum) {
  for (int v = 0; v < kVectors; ++v) {
    Vec total{};
    for (int64_t b = 0; b < rows; ++b) total += load(dy + b * kPanel + v * kWidth);
    store(sum + v * kWidth, load(sum + v * kWidth) + total);
  }
}

template <int rows>
STROP_INLINE void exponentials_tile(float* panel, float* largest, float* sum) {
  const Vec infinite = set1(-std::numeric_limits<float>::infinity());
  Vec most[4], total[4] = {};
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) {
    most[b] = infinite;
    if (b >= rows) continue;
    for (int v = 0; v < kVectors; ++v) {
      const Vec x = load(panel + b * kPanel + v * kWidth);
      most[b] = x > most[b] ? x : most[b];
    }
  }
  const Vec4 top = max_lanes(most[0], most[1], most[2], most[3]);
#pragma GCC unroll 4
  for (int b = 0; b < rows; ++b) {
    // A row of nothing but -inf becomes zeros.
    const Vec shift = set1(top[b] == infinite[0] ? 0.0f : top[b]);
    for (int v = 0; v < kVectors; ++v) {
      float* target = panel + b * kPanel + v * kWidth;
      const Vec x = load(target) - shift;
      const Vec y = x < set1(-87.0f) ? Vec{} : exp(x);
      store(target, y);
      total[b] += y;
    }
    largest[b] = top[b];
  }
  const Vec4 sums = sum_lanes(total[0], total[1], total[2], total[3]);
#pragma GCC unroll 4
  for (int b = 0; b < rows; ++b) sum[b] = sums[b];
}

void exponentials(float* panel, int64_t rows, float* largest, float* sum) {
  for (int64_t b = 0; b < rows; b += 4) {
    with_constant<4>(std::min<int64_t>(4, rows - b),
                     [&]<int n>() { exponentials_tile<n>(panel + b * kPanel, largest + b, sum + b); });
  }
}

double fma_chain(int64_t iterations) {
  constexpr int kChains = 12;
  const Vec a = set1(0.999f), b = set1(1e-3f);
  Vec sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i] = a;
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      sum[i] = sum[i] * a + b;
      asm volatile("" : "+x"(sum[i]));  // every link is computed
    }
  }
  Vec total{};
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) total += sum[i];
  return total[0] > 0.0f ? 2.0 * kWidth * kChains * static_cast<double>(iterations) : 0.0;
}

}  // namespace

extern const CellKernels cells[kCells];
extern const Kernels table = {
    STROP_NAME, {pack, pack, forward, input_grad, weight_grad, narrow}, unpack, column_sums, exponentials, plain_dot, cells, fma_chain,
};

}  // namespace strop::STROP_ISA
