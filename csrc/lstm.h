// One LSTM layer over a whole sequence. Arrays are contiguous; null pointers stand for what is absent.
#pragma once

#include "products.h"

namespace strop {

struct LstmSize {
  int64_t steps, batch, inputs, hidden;
};

// Gates of the whole sequence are kept as [steps][panels][batch][64] with `Panels::gates(hidden)`.
struct LstmForward {
  LstmSize size;
  const float *x, *h0, *c0;               // [steps][batch][inputs], [batch][hidden] twice
  const float *w_ih, *w_hh, *b_ih, *b_hh;  // plain, as in torch.nn.LSTM
  Keep input, recurrent;
  const float* recurrent_mask;            // [1 or steps][batch][hidden] in place of `recurrent`
  int64_t mask_stride;                    // 0 or batch * hidden
  float *y, *gates, *cells;               // out: [steps][batch][hidden], gates, [steps][batch][hidden]
};

struct LstmBackward {
  LstmSize size;
  const float *dy, *dh, *dc;  // any may be null
  const float *c0, *w_ih, *w_hh, *gates, *cells;
  Keep input, recurrent;
  const float* recurrent_mask;
  int64_t mask_stride;
  float *dgates, *dx, *dh0, *dc0;  // out; dx may be null
};

struct LstmWeightGrad {
  LstmSize size;
  const float *x, *y, *h0, *dgates;
  Keep input, recurrent;
  const float* recurrent_mask;
  int64_t mask_stride;
  float *dw_ih, *dw_hh, *db;  // out
};

// `packed_w_hh`: w_hh in panels as pack_weight leaves it, where the caller has it; else null.
void lstm_forward(const LstmForward& args, const float* packed_w_hh = nullptr);
void lstm_backward(const LstmBackward& args);
void lstm_weight_grad(const LstmWeightGrad& args);

}  // namespace strop
