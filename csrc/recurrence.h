// One recurrent layer in one direction over a whole sequence. Arrays are contiguous; null pointers stand for what is
// absent. `rows` are those of all steps, one step after another.
#pragma once

#include "products.h"

namespace strop {

// A multiplier of the hidden state on its way into the product: [1 or steps][batch][outputs].
struct Mask {
  const float* data = nullptr;
  int64_t stride = 0;  // 0 or batch * outputs

  const float* at(int64_t t) const { return data == nullptr ? nullptr : data + t * stride; }
};

struct Recurrence {
  Cell cell;
  bool reverse;  // from the last step to the first
  Steps size;
  int64_t inputs, hidden;  // units of x, and of the cell
  int64_t outputs;         // of y and h: `hidden`, or those of a projection
  Keep input, recurrent;  // of a mask in place of `recurrent` only the mask counts
  Mask mask;

  Panels panels() const { return {gates_of(cell), hidden}; }
  int64_t time(int64_t turn) const { return reverse ? size.steps - 1 - turn : turn; }
};

// Gates of all rows are kept step by step, each as [panels][rows of the step][64].
struct RecurrenceForward : Recurrence {
  const float *x, *h0, *c0;                // [rows][inputs], [batch][outputs], [batch][hidden] of an LSTM only
  const float *w_ih, *w_hh, *b_ih, *b_hh;  // plain, as in torch.nn.RNNBase
  const float* w_hr;                       // [outputs][hidden], or null
  float *y, *gates, *states;               // out: [rows][outputs], gates, [rows][hidden] of LSTM and GRU
  float* unprojected;                      // out: [rows][hidden], what w_hr makes y of; null without it
};

struct RecurrenceBackward : Recurrence {
  const float *dy, *dh, *dc;  // any may be null
  const float *y, *h0, *c0, *w_ih, *w_hh, *w_hr, *gates, *states;
  float *dgates, *drecurrent;  // out; the second for a GRU only: as CellBackward's
  float* dprojected;           // out: the whole gradient of each step's h, [rows][outputs]; null without w_hr
  float *dx, *dh0, *dc0;       // out; dx may be null

  const float* recurrent_gradients() const { return drecurrent == nullptr ? dgates : drecurrent; }
};

struct RecurrenceWeightGrad : Recurrence {
  const float *x, *y, *h0, *dgates, *drecurrent;
  float *dw_ih, *dw_hh, *db_ih, *db_hh;  // out; db_hh for a GRU only, it is db_ih elsewhere

  const float* recurrent_gradients() const { return drecurrent == nullptr ? dgates : drecurrent; }
};

// The operands of the products are rounded to T; not the cells', nor those of projections.
// `packed_w_hh`: w_hh in panels as pack_panels leaves it, where the caller has it; else null.
template <typename T>
void recurrence_forward(const RecurrenceForward& args, const T* packed_w_hh = nullptr);
template <typename T>
void recurrence_backward(const RecurrenceBackward& args);
template <typename T>
void recurrence_weight_grad(const RecurrenceWeightGrad& args);

}  // namespace strop
