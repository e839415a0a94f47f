// The products' kernels on bfloat16, for CPUs with AVX512-BF16, whose dot product instruction multiplies two pairs in
// each lane. FP pairs two kept units, WG two rows of the batch, BP two neighbouring columns.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "simd.h"
#include "tiles.h"

namespace strop::STROP_ISA {
namespace {

constexpr int kRowTile = 6;      // FP: rows of the batch held in registers
constexpr int kUnitTile = 6;     // WG: units
constexpr int kDotUnitTile = 4;  // BP: units
constexpr int kDotRowTile = 5;   // BP: rows of the batch
constexpr int kVectors = 4;      // of floats in a panel
constexpr int kPairs = 2;        // vectors of bfloat16 in a panel
constexpr int64_t kLine = 32;    // bfloat16 in a cache line
// FP: 96 pairs of units are 24 KB of a panel, which stay in L1 for all rows of the batch.
constexpr int64_t kSumPairs = 96;
constexpr int64_t kDotRows = 80;   // BP: rows of dy that stay in L1 and L2 while units pass over them
constexpr int64_t kGradRows = 64;  // WG: rows of dy that are paired at once, 16 KB
constexpr int64_t kTilesAhead = 3;

STROP_INLINE __m512i read(const Bf16* p) { return _mm512_loadu_si512(p); }
STROP_INLINE __m512 dot(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

// A pair in every lane.
STROP_INLINE __m512i pair(const Bf16* p) {
  int32_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return _mm512_set1_epi32(bits);
}

// 16 numbers of a, then 16 of b.
STROP_INLINE __m512i narrow2(__m512 a, __m512 b) { return (__m512i)_mm512_cvtne2ps_pbh(b, a); }

void narrow(const float* from, int64_t count, Bf16* to) {
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    _mm512_storeu_si512(to + i, narrow2(_mm512_loadu_ps(from + i), _mm512_loadu_ps(from + i + 16)));
  }
  if (i == count) return;
  alignas(64) float rest[32] = {};
  alignas(64) Bf16 narrowed[32];
  std::copy_n(from + i, count - i, rest);
  _mm512_store_si512(narrowed, narrow2(_mm512_load_ps(rest), _mm512_load_ps(rest + 16)));
  std::copy_n(narrowed, count - i, to + i);
}

// A pair of each two numbers, the first ones in the lower halves. With a mask, as GCC 12 warns of what the permutation
// without one leaves undefined.
STROP_INLINE __m512i interleave2(__m512 first, __m512 second) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_maskz_permutexvar_epi16(0xffffffff, order, narrow2(first, second));
}

// In FP's order 4 columns of a group and 4 of the next take turns, so that interleaving two rows within each 128 bits
// gives the columns of either group side by side.
template <bool by_turns>
void pack_as(const float* plain, int64_t plain_stride, const PanelRows& rows, int64_t units, Bf16* panel,
             int64_t panel_stride) {
  for (int64_t unit = 0; unit < units; unit += kWidth) {
    const int64_t count = std::min<int64_t>(kWidth, units - unit);
    const auto there = static_cast<__mmask16>((1u << count) - 1);
    for (int half = 0; half < 2; ++half) {
      Vec pairs[kWidth];  // of columns, for 16 units
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        const int group = 2 * half + (by_turns ? i / 2 % 2 : i / 8), column = by_turns ? i / 4 * 4 + i % 2 * 2 : i % 8 * 2;
        const float* source = plain + (rows.first[group] + column) * plain_stride + unit;
        const int64_t valid = rows.valid[group] - column;
        const __m512 first = valid > 0 ? _mm512_maskz_loadu_ps(there, source) : _mm512_setzero_ps();
        const __m512 second = valid > 1 ? _mm512_maskz_loadu_ps(there, source + plain_stride) : _mm512_setzero_ps();
        pairs[i] = (Vec)interleave2(first, second);
      }
      transpose(pairs);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        if (i < count) _mm512_storeu_si512(panel + (unit + i) * panel_stride + half * kLine, (__m512i)pairs[i]);
      }
    }
  }
}

// `factor(i, b)` is pair i of row b, `unit(i, 0)` and `unit(i, 1)` its units, `fetch(i)` asks for what comes later.
template <int rows, typename Factor, typename Unit, typename Fetch>
STROP_INLINE void forward_tile(int64_t pairs, const Bf16* panel, float* out, const Factor& factor, const Unit& unit,
                               const Fetch& fetch) {
  __m512 sum[rows][kVectors] = {};
  for (int64_t i = 0; i < pairs; ++i) {
    const Bf16 *a = panel + unit(i, 0) * kPanel, *b = panel + unit(i, 1) * kPanel;
    fetch(i);
    __m512i w[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kPairs; ++v) {
      const __m512i of_a = read(a + v * kLine), of_b = read(b + v * kLine);
      w[2 * v] = _mm512_unpacklo_epi16(of_a, of_b);
      w[2 * v + 1] = _mm512_unpackhi_epi16(of_a, of_b);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const __m512i x = factor(i, r);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = dot(sum[r][v], x, w[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* target = out + r * kPanel + v * kGroup;
      _mm512_storeu_ps(target, _mm512_add_ps(_mm512_loadu_ps(target), sum[r][v]));
    }
}

// One unit whose partner in x is not in the range: its half of the pair alone, at place i.
void forward_single(const Bf16* x, int64_t x_stride, const int32_t* keep, int64_t i, const Bf16* panel, int64_t rows,
                    float* out) {
  const __m512i half = _mm512_set1_epi32(i % 2 == 0 ? 0x0000ffff : static_cast<int32_t>(0xffff0000));
  const auto unit = [&](int64_t, int) __attribute__((always_inline)) { return keep[i]; };
  for (int64_t b = 0; b < rows; ++b) {
    const auto factor = [&](int64_t, int) __attribute__((always_inline)) {
      return _mm512_and_si512(pair(x + (i / 2 * x_stride + b) * 2), half);
    };
    forward_tile<1>(1, panel, out + b * kPanel, factor, unit, [](int64_t) {});
  }
}

void forward(const Bf16* x, int64_t x_stride, const int32_t* keep, int64_t from, int64_t to, const Bf16* panel,
             int64_t rows, float* out, const Bf16* ahead) {
  if (from < to && from % 2 == 1) forward_single(x, x_stride, keep, from++, panel, rows, out);
  if (from < to && to % 2 == 1) forward_single(x, x_stride, keep, --to, panel, rows, out);
  const int64_t tiles = (rows + kRowTile - 1) / kRowTile, all = (to - from) / 2;
  for (int64_t done = 0; done < all; done += kSumPairs) {
    const int64_t pairs = std::min(kSumPairs, all - done);
    const int32_t* list = keep + from + 2 * done;
    const Bf16* xi = x + (from / 2 + done) * x_stride * 2;
    const auto unit = [&](int64_t i, int half) __attribute__((always_inline)) { return list[2 * i + half]; };
    int64_t tile = 0;
    balanced_tiles(rows, kRowTile, [&](int64_t b, int64_t size) {
      const auto factor = [&](int64_t i, int r) __attribute__((always_inline)) {
        return pair(xi + (i * x_stride + b + r) * 2);
      };
      // Each tile of the batch fetches its share of the next panel's rows.
      int64_t turn = tile++;
      const auto fetch = [&](int64_t i) __attribute__((always_inline)) {
        if (ahead == nullptr || --turn >= 0) return;
        turn = tiles - 1;
        for (int64_t l = 0; l < kPanel; l += kLine) {
          __builtin_prefetch(ahead + list[2 * i] * kPanel + l, 0, 1);
          __builtin_prefetch(ahead + list[2 * i + 1] * kPanel + l, 0, 1);
        }
      };
      with_constant<kRowTile>(size, [&]<int n>() {
        forward_tile<n>(pairs, panel, out + b * kPanel, factor, unit, fetch);
      });
    });
  }
}

template <int units, int rows>
STROP_INLINE void dot_tile(const Bf16* dy, int64_t dy_panel, const Bf16* slice, int64_t panels, const int32_t* keep,
                           const Bf16* ahead, float* out, int64_t out_stride) {
  const Bf16* row[units];
#pragma GCC unroll 4
  for (int i = 0; i < units; ++i) row[i] = slice + keep[i] * panels * kPanel;
  Vec sum[rows][units] = {};
  for (int64_t p = 0; p < panels; ++p) {
    if (ahead != nullptr) {
      for (int64_t l = 0; l < kPanel; l += kLine) __builtin_prefetch(ahead + p * kPanel + l, 0, 3);
    }
#pragma GCC unroll 2
    for (int v = 0; v < kPairs; ++v) {
      __m512i wi[units];
#pragma GCC unroll 4
      for (int i = 0; i < units; ++i) wi[i] = read(row[i] + p * kPanel + v * kLine);
#pragma GCC unroll 8
      for (int b = 0; b < rows; ++b) {
        const __m512i d = read(dy + p * dy_panel + b * kPanel + v * kLine);
#pragma GCC unroll 4
        for (int i = 0; i < units; ++i) sum[b][i] = (Vec)dot((__m512)sum[b][i], d, wi[i]);
      }
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < rows; ++b) add_lanes<units>(sum[b], out + b * out_stride);
}

void input_grad(const Bf16* dy, int64_t dy_panel, int64_t rows, const Bf16* slice, int64_t panels, const int32_t* keep,
                int64_t kept, float* out, int64_t out_stride) {
  dot_tiles<kDotUnitTile, kDotRowTile>(rows, kDotRows, kept, [&]<int u, int r>(int64_t i, int64_t b, int64_t ahead) {
    dot_tile<u, r>(dy + b * kPanel, dy_panel, slice, panels, keep + i,
                   ahead == 0 ? nullptr : slice + keep[ahead] * panels * kPanel, out + b * out_stride + i, out_stride);
  });
}

// Two rows of dy, column by column; a row that is not there is zero.
STROP_INLINE void pair_rows(const float* dy, bool both, Bf16* pairs) {
  for (int v = 0; v < kVectors; ++v) {
    const __m512 first = _mm512_loadu_ps(dy + v * kGroup);
    const __m512 second = both ? _mm512_loadu_ps(dy + kPanel + v * kGroup) : _mm512_setzero_ps();
    _mm512_store_si512(pairs + v * kLine, interleave2(first, second));
  }
}

template <int units>
STROP_INLINE void grad_tile(const Bf16* x, int64_t x_stride, const int32_t* keep, const Bf16* dy, int64_t pairs,
                            float* grad) {
  const int64_t lines = units * x_stride / kLine;  // of x for each tile
  __m512 sum[units][kVectors] = {};
  for (int64_t b = 0; b < pairs; ++b) {
    if (b < lines) __builtin_prefetch(x + kTilesAhead * units * x_stride + b * kLine, 0, 3);
    __m512i d[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) d[v] = read(dy + b * 2 * kPanel + v * kLine);
#pragma GCC unroll 8
    for (int i = 0; i < units; ++i) {
      const __m512i factor = pair(x + i * x_stride + 2 * b);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = dot(sum[i][v], factor, d[v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < units; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* target = grad + keep[i] * kPanel + v * kGroup;
      _mm512_storeu_ps(target, _mm512_add_ps(_mm512_loadu_ps(target), sum[i][v]));
    }
}

void weight_grad(const Bf16* x, int64_t x_stride, const int32_t* keep, int64_t kept, const float* dy, int64_t rows,
                 float* grad) {
  alignas(64) Bf16 paired[kGradRows * kPanel];
  for (int64_t done = 0; done < rows; done += kGradRows) {
    const int64_t some = std::min(kGradRows, rows - done), pairs = (some + 1) / 2;
    for (int64_t b = 0; b < pairs; ++b) {
      pair_rows(dy + (done + 2 * b) * kPanel, 2 * b + 1 < some, paired + b * 2 * kPanel);
    }
    balanced_tiles(kept, kUnitTile, [&](int64_t i, int64_t size) {
      with_constant<kUnitTile>(size, [&]<int n>() {
        grad_tile<n>(x + i * x_stride + done, x_stride, keep + i, paired, pairs, grad);
      });
    });
  }
}

}  // namespace

extern const ProductKernels<Bf16> bf16 = {
    pack_as<true>, pack_as<false>, forward, input_grad, weight_grad, narrow,
};

}  // namespace strop::STROP_ISA
