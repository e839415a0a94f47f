#include "linear.h"

namespace strop {
namespace {

// dy [steps][batch][outputs] by panels, the last one padded with zeros.
PanelsOfStep panels_of(const float* dy, const LinearSize& size) {
  return [dy, size](int64_t t, int64_t first, int64_t count, float* scratch) -> const float* {
    for (int64_t p = 0; p < count; ++p) {
      const int64_t column = (first + p) * kPanel, valid = std::min(kPanel, size.outputs - column);
      for (int64_t b = 0; b < size.batch; ++b) {
        float* target = scratch + (p * size.batch + b) * kPanel;
        std::copy_n(dy + (t * size.batch + b) * size.outputs + column, valid, target);
        std::fill_n(target + valid, kPanel - valid, 0.0f);
      }
    }
    return scratch;
  };
}

}  // namespace

void linear_forward(LinearSize size, const float* x, const float* weight, const float* bias, const Keep& keep,
                    float* y) {
  Arena arena;
  float* packed_x = arena.floats(size.steps * keep.width * size.batch);
  pack_columns(x, {size.steps, size.batch}, size.inputs, keep, packed_x);
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
  forward_all({weight, size.inputs, Panels(1, size.outputs)}, {size.steps, size.batch}, keep, packed_x, open,
              close);
}

void linear_input_grad(LinearSize size, const float* dy, const float* weight, const Keep& keep, float* dx) {
  input_grad_all({weight, size.inputs, Panels(1, size.outputs)}, {size.steps, size.batch}, keep,
                 panels_of(dy, size), dx);
}

void linear_weight_grad(LinearSize size, const float* x, const float* dy, const Keep& keep, float* dw) {
  Arena arena;
  float* packed_x = arena.floats(size.steps * keep.width * size.batch);
  pack_columns(x, {size.steps, size.batch}, size.inputs, keep, packed_x);
  weight_grad_all(Panels(1, size.outputs), size.inputs, {size.steps, size.batch}, keep, packed_x,
                  panels_of(dy, size), dw, nullptr);
}

}  // namespace strop
