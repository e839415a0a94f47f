// A stack of recurrent layers with nothing dropped and nothing kept for a backward pass.
#pragma once

#include <vector>

#include "recurrence.h"

namespace strop {

struct EvalLayer {  // in one direction
  int64_t inputs;
  const float *w_ih, *w_hh, *b_ih, *b_hh;  // plain, as in torch.nn.RNNBase; biases may be null
};

struct RecurrenceEval {
  Cell cell;
  int64_t steps, batch, hidden, directions;
  std::vector<EvalLayer> layers;  // [layers][directions]
  const float *x, *h0, *c0;       // [steps][batch][inputs], [layers * directions][batch][hidden]; c0 of an LSTM only
  float *y, *h, *c;               // out: [steps][batch][directions * hidden], [layers * directions][batch][hidden]
};

void recurrence_eval(const RecurrenceEval& args);

}  // namespace strop
