// Vectors of STROP_WIDTH floats by the compiler's vector extensions: one source for every instruction set.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

// Vectors must stay in registers, whatever the size of the caller.
#define STROP_INLINE inline __attribute__((always_inline))

namespace strop::STROP_ISA {

constexpr int kWidth = STROP_WIDTH;

typedef float Vec __attribute__((vector_size(4 * STROP_WIDTH)));
typedef int32_t IVec __attribute__((vector_size(4 * STROP_WIDTH)));
typedef uint32_t UVec __attribute__((vector_size(4 * STROP_WIDTH)));
typedef float Vec4 __attribute__((vector_size(16)));
typedef float VecU __attribute__((vector_size(4 * STROP_WIDTH), aligned(4), may_alias));
typedef float Vec4U __attribute__((vector_size(16), aligned(4), may_alias));

STROP_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecU*>(p); }
STROP_INLINE Vec4 load4(const float* p) { return *reinterpret_cast<const Vec4U*>(p); }
STROP_INLINE void store(float* p, Vec v) { *reinterpret_cast<VecU*>(p) = v; }
STROP_INLINE void store4(float* p, Vec4 v) { *reinterpret_cast<Vec4U*>(p) = v; }
STROP_INLINE Vec set1(float x) { return x - Vec{}; }

STROP_INLINE IVec bits(Vec v) { return reinterpret_cast<IVec>(v); }
STROP_INLINE Vec floats(IVec v) { return reinterpret_cast<Vec>(v); }

// Zeros, then as many lanes of ones.
constexpr auto kLaneMasks = [] {
  std::array<int32_t, 2 * kWidth> masks{};
  for (int i = kWidth; i < 2 * kWidth; ++i) masks[i] = -1;
  return masks;
}();

// The last `count` lanes of v, with zeros before them.
STROP_INLINE Vec last_lanes(Vec v, int64_t count) {
  IVec mask;
  std::memcpy(&mask, kLaneMasks.data() + count, sizeof(mask));
  return floats(bits(v) & mask);
}

// v, which the compiler is to keep in a register: GCC 12 else reads some again for each product.
STROP_INLINE Vec in_register(Vec v) {
#ifdef __AVX512F__
  asm("" : "+v"(v));
#elif defined(__SSE__)
  asm("" : "+x"(v));
#endif
  return v;
}

// Lane index of an interleave of a and b in runs of `run` lanes: the butterfly step that transposes
// (odd = 0 gathers the first runs of each pair, odd = 1 the second ones).
template <int run, int odd, int... l>
STROP_INLINE Vec interleave(Vec a, Vec b, std::integer_sequence<int, l...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, ((l & ~run) + odd * run + (l & run ? kWidth : 0))...);
#else
  return __builtin_shuffle(a, b, IVec{((l & ~run) + odd * run + (l & run ? kWidth : 0))...});
#endif
}

template <int run, int odd>
STROP_INLINE Vec interleave(Vec a, Vec b) {
  return interleave<run, odd>(a, b, std::make_integer_sequence<int, kWidth>());
}

template <int run>
STROP_INLINE void transpose_step(Vec* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) {
    if (i & run) continue;
    const Vec a = rows[i], b = rows[i | run];
    rows[i] = interleave<run, 0>(a, b);
    rows[i | run] = interleave<run, 1>(a, b);
  }
}

// In-register transpose of kWidth vectors of kWidth lanes.
STROP_INLINE void transpose(Vec* rows) {
  transpose_step<1>(rows);
  transpose_step<2>(rows);
  if constexpr (kWidth >= 8) transpose_step<4>(rows);
  if constexpr (kWidth >= 16) transpose_step<8>(rows);
}

// Folds the lanes of each of four vectors by `f`, into one vector of four.
template <typename F>
STROP_INLINE Vec4 fold_lanes(Vec a, Vec b, Vec c, Vec d, const F& f) {
  const Vec ab = f(interleave<1, 0>(a, b), interleave<1, 1>(a, b));
  const Vec cd = f(interleave<1, 0>(c, d), interleave<1, 1>(c, d));
  const Vec abcd = f(interleave<2, 0>(ab, cd), interleave<2, 1>(ab, cd));
  if constexpr (kWidth == 16) {
    typedef float Vec8 __attribute__((vector_size(32)));
    Vec8 low, high;
    std::memcpy(&low, &abcd, 32);
    std::memcpy(&high, reinterpret_cast<const char*>(&abcd) + 32, 32);
    const Vec8 half = f(low, high);
    Vec4 first, second;
    std::memcpy(&first, &half, 16);
    std::memcpy(&second, reinterpret_cast<const char*>(&half) + 16, 16);
    return f(first, second);
  } else if constexpr (kWidth == 8) {
    Vec4 first, second;
    std::memcpy(&first, &abcd, 16);
    std::memcpy(&second, reinterpret_cast<const char*>(&abcd) + 16, 16);
    return f(first, second);
  } else {
    Vec4 folded;
    std::memcpy(&folded, &abcd, 16);
    return folded;
  }
}

STROP_INLINE Vec4 sum_lanes(Vec a, Vec b, Vec c, Vec d) {
  return fold_lanes(a, b, c, d, [](auto x, auto y) __attribute__((always_inline)) { return x + y; });
}

// Adds up the lanes of the sums of some units to the numbers at `target`.
template <int units>
STROP_INLINE void add_lanes(const Vec* sum, float* target) {
#pragma GCC unroll 2
  for (int i = 0; i < units; i += 4) {
    const Vec none{};
    const Vec4 sums = sum_lanes(sum[i], i + 1 < units ? sum[i + 1] : none, i + 2 < units ? sum[i + 2] : none,
                                i + 3 < units ? sum[i + 3] : none);
    if (i + 4 <= units) {
      store4(target + i, load4(target + i) + sums);
    } else {
      for (int j = 0; j < units - i; ++j) target[i + j] += sums[j];
    }
  }
}

STROP_INLINE Vec4 max_lanes(Vec a, Vec b, Vec c, Vec d) {
  return fold_lanes(a, b, c, d, [](auto x, auto y) __attribute__((always_inline)) { return x > y ? x : y; });
}

// The largest x whose e^x is a finite float.
constexpr float kLargestExponent = 88.72283f;

// e^x to about 1 ulp for results in the normal range; clamped outside it. Range reduction by ln 2 in two
// parts and a polynomial of degree 6 (Cephes expf).
STROP_INLINE Vec exp(Vec x) {
  const Vec lo = set1(-87.0f), hi = set1(kLargestExponent);
  x = x < lo ? lo : x;
  x = x > hi ? hi : x;
  const Vec magic = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Vec shifted = x * set1(1.44269504088896341f) + magic;
  const Vec n = shifted - magic;
  Vec r = x - n * set1(0.693359375f);
  r = r - n * set1(-2.12194440e-4f);
  Vec p = set1(1.9875691500e-4f);
  p = p * r + set1(1.3981999507e-3f);
  p = p * r + set1(8.3334519073e-3f);
  p = p * r + set1(4.1665795894e-2f);
  p = p * r + set1(1.6666665459e-1f);
  p = p * r + set1(5.0000001201e-1f);
  const Vec y = p * (r * r) + r + set1(1.0f);
  // Unsigned: the sum wraps around for a NaN, of which it can make a number.
  const UVec scaled = reinterpret_cast<UVec>(y) + (reinterpret_cast<UVec>(shifted) << 23);
  return x == x ? reinterpret_cast<Vec>(scaled) : x;
}

// Exactly 0 where e^-x overflows, as in PyTorch: an infinite state times 0 has to be NaN.
STROP_INLINE Vec sigmoid(Vec x) {
  const Vec y = set1(1.0f) / (set1(1.0f) + exp(-x));
  return x < set1(-kLargestExponent) ? Vec{} : y;
}

// Odd polynomial near zero (Cephes tanhf), 1 - 2 / (e^2|x| + 1) elsewhere.
STROP_INLINE Vec tanh(Vec x) {
  const IVec sign = bits(x) & static_cast<int32_t>(0x80000000);
  const Vec a = floats(bits(x) & 0x7fffffff);
  const Vec z = x * x;
  Vec p = set1(-5.70498872745e-3f);
  p = p * z + set1(2.06390887954e-2f);
  p = p * z + set1(-5.37397155531e-2f);
  p = p * z + set1(1.33314422036e-1f);
  p = p * z + set1(-3.33332819422e-1f);
  const Vec small = p * z * x + x;
  const Vec large = set1(1.0f) - set1(2.0f) / (exp(a + a) + set1(1.0f));
  return a < set1(0.625f) ? small : floats(bits(large) | sign);
}

}  // namespace strop::STROP_ISA
