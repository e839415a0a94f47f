#include "lstm_eval.h"

#include <algorithm>

#include "lstm.h"

namespace strop {
namespace {

// From this many rows of activations on, and this many in a step, packing the weights pays; below, they are read
// in place, once for each step.
constexpr int64_t kRowsToPack = 24, kBatchToPack = 4;
// Rows of pre-activations kept at a time: enough that reading the input weight again costs a few per cent.
constexpr int64_t kRowsAtOnce = 256;

struct Layer {
  const LstmLayer& weights;
  const float *x, *h0, *c0;
  float *y, *h, *c;
};

void fill_bias(const LstmLayer& weights, const PanelRows& rows, int64_t count, float* gates) {
  float bias[kPanel] = {};
  for (int64_t group = 0; group < 4; ++group) {
    for (int64_t i = 0; i < rows.valid[group]; ++i) {
      if (weights.b_ih != nullptr) bias[group * kGroup + i] += weights.b_ih[rows.first[group] + i];
      if (weights.b_hh != nullptr) bias[group * kGroup + i] += weights.b_hh[rows.first[group] + i];
    }
  }
  for (int64_t row = 0; row < count; ++row) std::copy_n(bias, kPanel, gates + row * kPanel);
}

// gates[count][64] += x[count][units] times the panel's rows of a plain weight.
void add_product(const float* x, int64_t count, const float* weight, int64_t units, const PanelRows& rows,
                 float* gates) {
  for (int64_t group = 0; group < 4; ++group) {
    kernels().plain_dot(x, units, count, weight + rows.first[group] * units, units, rows.valid[group], units,
                        gates + group * kGroup, kPanel);
  }
}

// Every gate is a dot product along a row of the plain weights.
void few_rows(const LstmEval& a, const Layer& layer) {
  Arena arena;
  const LstmLayer& weights = layer.weights;
  const Panels panels = Panels::gates(a.hidden);
  const int64_t state = a.batch * a.hidden;
  const int64_t most = std::min(a.steps, (kRowsAtOnce + a.batch - 1) / a.batch);
  const int64_t operations = 2 * a.batch * kPanel * (a.hidden + weights.inputs);
  float* gates = arena.floats(panels.count * most * a.batch * kPanel);
  std::copy_n(layer.c0, state, layer.c);
  for (int64_t t = 0; t < a.steps; ++t) {
    const float* before = t == 0 ? layer.h0 : layer.y + (t - 1) * state;
    float* h = layer.y + t * state;
    parallel(panels.count, grain(panels.count, 4, operations), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const PanelRows rows = panels.rows(p);
        float* of_panel = gates + p * most * a.batch * kPanel;
        if (t % most == 0) {
          const int64_t count = std::min(most, a.steps - t) * a.batch;
          fill_bias(weights, rows, count, of_panel);
          add_product(layer.x + t * a.batch * weights.inputs, count, weights.w_ih, weights.inputs, rows, of_panel);
        }
        float* of_step = of_panel + t % most * a.batch * kPanel;
        add_product(before, a.batch, weights.w_hh, a.hidden, rows, of_step);
        float* c = layer.c + p * kGroup;
        kernels().lstm_forward(of_step, a.batch, rows.valid[0], c, c, h + p * kGroup, a.hidden);
      }
    });
  }
  std::copy_n(layer.y + (a.steps - 1) * state, state, layer.h);
}

// The kernels of training, some steps at a time.
void many_rows(const LstmEval& a, const Layer& layer) {
  Arena arena;
  const auto& [inputs, w_ih, w_hh, b_ih, b_hh] = layer.weights;
  const Panels panels = Panels::gates(a.hidden);
  const int64_t state = a.batch * a.hidden;
  const int64_t most = std::min(a.steps, (kRowsAtOnce + a.batch - 1) / a.batch);
  const Keep all_inputs = keep_all(inputs, arena), all_hidden = keep_all(a.hidden, arena);
  float* gates = arena.floats(most * panels.count * a.batch * kPanel);
  float* cells = arena.floats(most * state);
  float* packed = arena.floats(panels.count * panel_size(a.hidden));
  pack_weight({w_hh, a.hidden, panels}, 0, panels.count, 1, packed);
  const float *h0 = layer.h0, *c0 = layer.c0;
  for (int64_t t = 0; t < a.steps; t += most) {
    const int64_t steps = std::min(most, a.steps - t);
    float* y = layer.y + t * state;
    lstm_forward({{steps, a.batch, inputs, a.hidden}, layer.x + t * a.batch * inputs, h0, c0, w_ih, w_hh, b_ih, b_hh,
                  all_inputs, all_hidden, nullptr, 0, y, gates, cells},
                 packed);
    std::copy_n(y + (steps - 1) * state, state, layer.h);
    std::copy_n(cells + (steps - 1) * state, state, layer.c);
    h0 = layer.h;
    c0 = layer.c;
  }
}

}  // namespace

void lstm_eval(const LstmEval& a) {
  Arena arena;
  const int64_t state = a.batch * a.hidden, layers = static_cast<int64_t>(a.layers.size());
  // Layers alternate between y and one more sequence, so that the last one writes y.
  float* other = layers > 1 ? arena.floats(a.steps * state) : nullptr;
  const float* x = a.x;
  for (int64_t l = 0; l < layers; ++l) {
    float* y = (layers - l) % 2 == 1 ? a.y : other;
    const Layer layer{a.layers[static_cast<size_t>(l)], x, a.h0 + l * state, a.c0 + l * state, y, a.h + l * state, a.c + l * state};
    if (a.steps * a.batch < kRowsToPack || a.batch < kBatchToPack) {
      few_rows(a, layer);
    } else {
      many_rows(a, layer);
    }
    x = y;
  }
}

}  // namespace strop
