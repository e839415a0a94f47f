#include "linear.h"

namespace strop {
namespace {

// dy [steps][batch][outputs] by panels, the last one padded with zeros.
template <typename T>
PanelsOfStep<T> panels_of(const float* dy, const LinearSize& size) {
  return [dy, size](int64_t t, int64_t first, int64_t count, T* scratch) -> const T* {
    for (int64_t p = 0; p < count; ++p) {
      const int64_t column = (first + p) * kPanel, valid = std::min(kPanel, size.outputs - column);
      for (int64_t b = 0; b < size.batch; ++b) {
        T* target = scratch + (p * size.batch + b) * kPanel;
        products<T>().narrow(dy + (t * size.batch + b) * size.outputs + column, valid, target);
        std::fill_n(target + valid, kPanel - valid, T{});
      }
    }
    return scratch;
  };
}

}  // namespace

template <typename T>
void linear_forward(LinearSize size, const float* x, const float* weight, const float* bias, const Keep& keep,
                    float* y) {
  Arena arena;
  const Steps steps{size.steps, size.batch};
  const ForwardPlace<T> place{keep.width};
  T* packed_x = arena.many<T>(place.total(steps));
  pack_columns(x, steps, size.inputs, keep, place, packed_x);
  const auto row = [&](int64_t t, int64_t b) { return y + (t * size.batch + b) * size.outputs; };
  const auto open = [&](int64_t t, int64_t p, bool first, float* scratch) {
    const int64_t column = p * kPanel, valid = std::min(kPanel, size.outputs - column);
    for (int64_t b = 0; b < size.batch; ++b) {
      float* target = scratch + b * kPanel;
      if (!first) {
        std::copy_n(row(t, b) + column, valid, target);
      } else if (bias != nullptr) {
        std::copy_n(bias + column, valid, target);
      } else {
        std::fill_n(target, valid, 0.0f);
      }
      std::fill_n(target + valid, kPanel - valid, 0.0f);
    }
    return scratch;
  };
  const auto close = [&](int64_t t, int64_t p, const float* out) {
    const int64_t column = p * kPanel, valid = std::min(kPanel, size.outputs - column);
    for (int64_t b = 0; b < size.batch; ++b) std::copy_n(out + b * kPanel, valid, row(t, b) + column);
  };
  forward_all({weight, size.inputs, Panels(1, size.outputs)}, steps, keep, packed_x, open, close);
}

template <typename T>
void linear_input_grad(LinearSize size, const float* dy, const float* weight, const Keep& keep, float* dx) {
  input_grad_all({weight, size.inputs, Panels(1, size.outputs)}, {size.steps, size.batch}, keep,
                 panels_of<T>(dy, size), dx);
}

template <typename T>
void linear_weight_grad(LinearSize size, const float* x, const float* dy, const Keep& keep, float* dw) {
  Arena arena;
  const Steps steps{size.steps, size.batch};
  const GradPlace<T> place{keep.width};
  T* packed_x = arena.many<T>(place.total(steps));
  pack_columns(x, steps, size.inputs, keep, place, packed_x);
  weight_grad_all(Panels(1, size.outputs), size.inputs, steps, keep, packed_x, panels_of<float>(dy, size), dw, nullptr);
}

#define STROP_LINEAR(T)                                                                                         \
  template void linear_forward<T>(LinearSize, const float*, const float*, const float*, const Keep&, float*);  \
  template void linear_input_grad<T>(LinearSize, const float*, const float*, const Keep&, float*);             \
  template void linear_weight_grad<T>(LinearSize, const float*, const float*, const Keep&, float*);
STROP_LINEAR(float)
STROP_LINEAR(Bf16)

}  // namespace strop
