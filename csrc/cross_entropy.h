// A Linear layer over a whole sequence and the cross entropy of its outputs, which exist one panel at a time.
#pragma once

#include "linear.h"

namespace strop {

struct CrossEntropy {
  LinearSize size;
  const int32_t* target;  // [steps][batch]: a class, or below 0 where the row does not count
  Keep keep;
  float smoothing;        // share of the target that all classes have in common
};

// Operands of the products are rounded to T.

// loss [steps][batch], 0 where a row does not count. For the gradients, in the panels of the classes: e^(logit - largest of
// its row in the panel), [panels][steps][batch][64], and the `factors` that make probabilities of them,
// [panels][steps][batch]; both may be null.
template <typename T>
void linear_cross_entropy(const CrossEntropy& a, const float* x, const float* weight, const float* bias, float* loss,
                          float* exponentials, float* factors);

// Gradients from that of each loss, `dloss` [steps][batch]; those whose pointers are null are not computed. dx as in
// products.h; dw and db come together.
template <typename T>
void linear_cross_entropy_grad(const CrossEntropy& a, const float* exponentials, const float* factors,
                               const float* dloss, const float* x, const float* weight, float* dx, float* dw, float* db);

}  // namespace strop
