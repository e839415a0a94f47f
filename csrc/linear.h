// A Linear layer over a whole sequence, on the kept columns of its input. dx and dw as in products.h.
#pragma once

#include "products.h"

namespace strop {

struct LinearSize {
  int64_t steps, batch, inputs, outputs;

  // Of a product with nothing dropped.
  int64_t operations() const { return 2 * steps * batch * inputs * outputs; }
};

// Operands are rounded to T.
template <typename T>
void linear_forward(LinearSize size, const float* x, const float* weight, const float* bias, const Keep& keep,
                    float* y);
template <typename T>
void linear_input_grad(LinearSize size, const float* dy, const float* weight, const Keep& keep, float* dx);
template <typename T>
void linear_weight_grad(LinearSize size, const float* x, const float* dy, const Keep& keep, float* dw);

}  // namespace strop
