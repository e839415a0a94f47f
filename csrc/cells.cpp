// The cells' pointwise work; compiled once per instruction set, as kernels.cpp.
#include <algorithm>

#include "kernels.h"
#include "simd.h"

namespace strop::STROP_ISA {
namespace {

// Lanes without a unit (`valid` of them have one) read as zero and are not written.
template <bool whole>
STROP_INLINE Vec load_units(const float* p, int64_t valid) {
  if constexpr (whole) return load(p);
  float lanes[kWidth] = {};
  for (int64_t lane = 0; lane < std::min<int64_t>(valid, kWidth); ++lane) lanes[lane] = p[lane];
  return load(lanes);
}

template <bool whole>
STROP_INLINE void store_units(float* p, Vec v, int64_t valid) {
  if constexpr (whole) {
    store(p, v);
  } else {
    for (int64_t lane = 0; lane < std::min<int64_t>(valid, kWidth); ++lane) p[lane] = v[lane];
  }
}

// Such lanes of a gate's gradient are zero: an infinite operand has made NaN of their activations, which BP would sum up.
template <bool whole>
STROP_INLINE void store_gradient(float* p, Vec v, int64_t valid) {
  store(p, v);
  if constexpr (!whole) {
    for (int64_t lane = std::max<int64_t>(valid, 0); lane < kWidth; ++lane) p[lane] = 0.0f;
  }
}

// Calls f<whole>(where in a gate, where in a state, units from there on) for each vector of each row.
template <typename F>
STROP_INLINE void for_vectors(int64_t rows, int64_t units, int64_t stride, const F& f) {
  for (int64_t b = 0; b < rows; ++b) {
    if (units == kGroup) {
#pragma GCC unroll 4
      for (int64_t v = 0; v < kGroup; v += kWidth) f.template operator()<true>(b * kPanel + v, b * stride + v, kWidth);
    } else {
      for (int64_t v = 0; v < kGroup; v += kWidth) {
        f.template operator()<false>(b * kPanel + v, b * stride + v, units - v);
      }
    }
  }
}

// Sarma et al. eqs. 1 to 6.
void lstm_forward(const CellForward& a) {
  for_vectors(a.rows, a.units, a.stride, [&]<bool whole>(int64_t lane, int64_t unit, int64_t valid) {
    const Vec i = sigmoid(load(a.gate[0] + lane)), f = sigmoid(load(a.gate[1] + lane));
    const Vec g = tanh(load(a.gate[2] + lane)), o = sigmoid(load(a.gate[3] + lane));
    const Vec c = f * load_units<whole>(a.before + unit, valid) + i * g;
    store(a.gate[0] + lane, i);
    store(a.gate[1] + lane, f);
    store(a.gate[2] + lane, g);
    store(a.gate[3] + lane, o);
    store_units<whole>(a.state + unit, c, valid);
    store_units<whole>(a.h + unit, o * tanh(c), valid);
  });
}

// Eqs. 7 to 9.
void lstm_backward(const CellBackward& a) {
  const Vec one = set1(1.0f);
  for_vectors(a.rows, a.units, a.stride, [&]<bool whole>(int64_t lane, int64_t unit, int64_t valid) {
    const Vec i = load(a.gate[0] + lane), f = load(a.gate[1] + lane);
    const Vec g = load(a.gate[2] + lane), o = load(a.gate[3] + lane);
    const Vec dh = load_units<whole>(a.dh + unit, valid);
    const Vec squashed = tanh(load_units<whole>(a.state + unit, valid));
    const Vec dc = load_units<whole>(a.carry + unit, valid) + dh * o * (one - squashed * squashed);
    store_gradient<whole>(a.dgate[0] + lane, dc * g * i * (one - i), valid);
    store_gradient<whole>(a.dgate[1] + lane, dc * load_units<whole>(a.before + unit, valid) * f * (one - f), valid);
    store_gradient<whole>(a.dgate[2] + lane, dc * i * (one - g * g), valid);
    store_gradient<whole>(a.dgate[3] + lane, dh * squashed * o * (one - o), valid);
    store_units<whole>(a.carry + unit, dc * f, valid);
  });
}

// torch's GRU: r and z gate, n = tanh(x's share + r * h's share), h = n + z * (h_before - n).
void gru_forward(const CellForward& a) {
  for_vectors(a.rows, a.units, a.stride, [&]<bool whole>(int64_t lane, int64_t unit, int64_t valid) {
    const Vec r = sigmoid(load(a.gate[0] + lane) + load(a.recurrent[0] + lane));
    const Vec z = sigmoid(load(a.gate[1] + lane) + load(a.recurrent[1] + lane));
    const Vec share = load(a.recurrent[2] + lane);
    const Vec n = tanh(load(a.gate[2] + lane) + r * share);
    store(a.gate[0] + lane, r);
    store(a.gate[1] + lane, z);
    store(a.gate[2] + lane, n);
    store_units<whole>(a.state + unit, share, valid);
    store_units<whole>(a.h + unit, n + z * (load_units<whole>(a.before + unit, valid) - n), valid);
  });
}

void gru_backward(const CellBackward& a) {
  const Vec one = set1(1.0f);
  for_vectors(a.rows, a.units, a.stride, [&]<bool whole>(int64_t lane, int64_t unit, int64_t valid) {
    const Vec r = load(a.gate[0] + lane), z = load(a.gate[1] + lane), n = load(a.gate[2] + lane);
    const Vec dh = load_units<whole>(a.dh + unit, valid);
    const Vec dn = dh * (one - z) * (one - n * n);
    const Vec dr = dn * load_units<whole>(a.state + unit, valid) * r * (one - r);
    const Vec dz = dh * (load_units<whole>(a.before + unit, valid) - n) * z * (one - z);
    store_gradient<whole>(a.dgate[0] + lane, dr, valid);
    store_gradient<whole>(a.dgate[1] + lane, dz, valid);
    store_gradient<whole>(a.dgate[2] + lane, dn, valid);
    store_gradient<whole>(a.drecurrent[0] + lane, dr, valid);
    store_gradient<whole>(a.drecurrent[1] + lane, dz, valid);
    store_gradient<whole>(a.drecurrent[2] + lane, dn * r, valid);
    store_units<whole>(a.carry + unit, dh * z, valid);
  });
}

struct Tanh {
  static STROP_INLINE Vec value(Vec x) { return tanh(x); }
  static STROP_INLINE Vec derivative(Vec h) { return set1(1.0f) - h * h; }
};

struct Relu {
  static STROP_INLINE Vec value(Vec x) { return x < Vec{} ? Vec{} : x; }
  static STROP_INLINE Vec derivative(Vec h) { return h > Vec{} ? set1(1.0f) : Vec{}; }
};

template <typename Function>
void rnn_forward(const CellForward& a) {
  for_vectors(a.rows, a.units, a.stride, [&]<bool whole>(int64_t lane, int64_t unit, int64_t valid) {
    const Vec h = Function::value(load(a.gate[0] + lane));
    store(a.gate[0] + lane, h);
    store_units<whole>(a.h + unit, h, valid);
  });
}

template <typename Function>
void rnn_backward(const CellBackward& a) {
  for_vectors(a.rows, a.units, a.stride, [&]<bool whole>(int64_t lane, int64_t unit, int64_t valid) {
    const Vec dh = load_units<whole>(a.dh + unit, valid);
    store_gradient<whole>(a.dgate[0] + lane, dh * Function::derivative(load(a.gate[0] + lane)), valid);
  });
}

}  // namespace

extern const CellKernels cells[kCells] = {
    {lstm_forward, lstm_backward},
    {gru_forward, gru_backward},
    {rnn_forward<Tanh>, rnn_backward<Tanh>},
    {rnn_forward<Relu>, rnn_backward<Relu>},
};

}  // namespace strop::STROP_ISA
