// A stack of LSTM layers with nothing dropped and nothing kept for a backward pass.
#pragma once

#include <vector>

#include "products.h"

namespace strop {

struct LstmLayer {
  int64_t inputs;
  const float *w_ih, *w_hh, *b_ih, *b_hh;  // plain, as in torch.nn.LSTM; biases may be null
};

struct LstmEval {
  int64_t steps, batch, hidden;
  std::vector<LstmLayer> layers;
  const float *x, *h0, *c0;  // [steps][batch][inputs], [layers][batch][hidden] twice
  float *y, *h, *c;          // out: [steps][batch][hidden], [layers][batch][hidden] twice
};

void lstm_eval(const LstmEval& args);

}  // namespace strop
