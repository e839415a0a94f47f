#include "recurrence_eval.h"

#include <algorithm>

#include "spans.h"

namespace strop {
namespace {

// From this many rows of activations on, and this many in a step, packing the weights pays; below, they are read
// in place, once for each step.
constexpr int64_t kRowsToPack = 24, kBatchToPack = 4;
// Rows of pre-activations kept at a time: enough that reading the input weight again costs a few per cent.
constexpr int64_t kRowsAtOnce = 256;

// One layer in one direction.
struct Run {
  const EvalLayer& weights;
  bool reverse;
  const float *x, *h0, *c0;
  float *y, *h, *c;
};

// gates[count][64] += x[count][units] times the panel's rows of a plain weight.
void add_product(const float* x, int64_t count, const float* weight, int64_t units, const PanelRows& rows,
                 float* gates) {
  for (int64_t group = 0; group < 4; ++group) {
    kernels().plain_dot(x, units, count, weight + rows.first[group] * units, units, rows.valid[group], units,
                        gates + group * kGroup, kPanel);
  }
}

// Every gate is a dot product along a row of the plain weights.
void few_rows(const RecurrenceEval& a, const Run& run) {
  Arena arena;
  const EvalLayer& weights = run.weights;
  const Panels panels(gates_of(a.cell), a.hidden);
  const Span span(a.cell, a.hidden);
  const bool apart = a.cell == Cell::gru;
  const int64_t state = a.batch * a.hidden;
  const int64_t most = std::min(a.steps, divide_up(kRowsAtOnce, a.batch)), rows = most * a.batch;
  const int64_t operations = 2 * a.batch * span.panels * kPanel * (a.hidden + weights.inputs);
  float* gates = arena.floats(panels.count * rows * kPanel);
  float* shares = arena.floats(threads() * span.panels * a.batch * kPanel);
  float* unused = apart ? arena.floats(state) : nullptr;  // what a GRU keeps for its backward pass
  if (run.c != nullptr) std::copy_n(run.c0, state, run.c);
  for (int64_t turn = 0; turn < a.steps; ++turn) {
    const int64_t t = run.reverse ? a.steps - 1 - turn : turn;
    const int64_t count = std::min(most, a.steps - turn / most * most);  // of the steps computed at once
    const int64_t first = run.reverse ? a.steps - turn / most * most - count : turn / most * most;
    const float* before = turn == 0 ? run.h0 : run.y + (run.reverse ? t + 1 : t - 1) * state;
    parallel(span.count(), grain(span.count(), 4, operations), [&](int64_t thread, int64_t begin, int64_t end) {
      float* share = shares + thread * span.panels * a.batch * kPanel;
      for (int64_t panel = begin * span.panels; panel < std::min(panels.count, end * span.panels); panel += span.panels) {
        float* of_step = gates + (panel * rows + (t - first) * a.batch) * kPanel;
        for (int64_t p = panel; p < std::min(panels.count, panel + span.panels); ++p) {
          const PanelRows of_panel = panels.rows(p);
          float bias[kPanel];
          if (turn % most == 0) {
            fill_bias(of_panel, weights.b_ih, apart ? nullptr : weights.b_hh, bias);
            spread_bias(bias, count * a.batch, gates + p * rows * kPanel);
            add_product(run.x + first * a.batch * weights.inputs, count * a.batch, weights.w_ih, weights.inputs, of_panel,
                        gates + p * rows * kPanel);
          }
          float* product = apart ? share + (p - panel) * a.batch * kPanel : of_step + (p - panel) * rows * kPanel;
          if (apart) {
            fill_bias(of_panel, nullptr, weights.b_hh, bias);
            spread_bias(bias, a.batch, product);
          }
          add_product(before, a.batch, weights.w_hh, a.hidden, of_panel, product);
        }
        span.for_units(panel, [&](int64_t unit, int64_t units, int64_t group) {
          CellForward cell{a.batch, units, {}, {}, nullptr, nullptr, run.y + t * state + unit, a.hidden};
          if (a.cell == Cell::lstm) {
            cell.before = cell.state = run.c + unit;
          } else if (apart) {
            cell.before = before + unit;
            cell.state = unused + unit;
          }
          for (int64_t gate = 0; gate < span.gates; ++gate) {
            cell.gate[gate] = of_step + place(group + gate, rows);
            cell.recurrent[gate] = share + place(group + gate, a.batch);
          }
          kernels().cells[static_cast<int>(a.cell)].forward(cell);
        });
      }
    });
  }
  std::copy_n(run.y + (run.reverse ? 0 : a.steps - 1) * state, state, run.h);
}

// The kernels of training, some steps at a time.
void many_rows(const RecurrenceEval& a, const Run& run) {
  Arena arena;
  const auto& [inputs, w_ih, w_hh, b_ih, b_hh] = run.weights;
  const Panels panels(gates_of(a.cell), a.hidden);
  const int64_t state = a.batch * a.hidden;
  const int64_t most = std::min(a.steps, divide_up(kRowsAtOnce, a.batch));
  const Keep all_inputs = keep_all(inputs, arena), all_hidden = keep_all(a.hidden, arena);
  float* gates = arena.floats(most * panels.count * a.batch * kPanel);
  float* states = arena.floats(most * state);
  float* packed = arena.floats(panels.count * panel_size(a.hidden));
  pack_panels({w_hh, a.hidden, panels}, 0, panels.count, packed);
  const float *h0 = run.h0, *c0 = run.c0;
  for (int64_t done = 0; done < a.steps; done += most) {
    const int64_t steps = std::min(most, a.steps - done), first = run.reverse ? a.steps - done - steps : done;
    const int64_t last = run.reverse ? 0 : steps - 1;
    float* y = run.y + first * state;
    recurrence_forward({{a.cell, run.reverse, {steps, a.batch}, inputs, a.hidden, a.hidden, all_inputs, all_hidden, {}},
                        run.x + first * a.batch * inputs, h0, c0, w_ih, w_hh, b_ih, b_hh, nullptr, y, gates, states, nullptr},
                       packed);
    std::copy_n(y + last * state, state, run.h);
    h0 = run.h;
    if (run.c != nullptr) {
      std::copy_n(states + last * state, state, run.c);
      c0 = run.c;
    }
  }
}

}  // namespace

void recurrence_eval(const RecurrenceEval& a) {
  Arena arena;
  const int64_t state = a.batch * a.hidden, layers = static_cast<int64_t>(a.layers.size()) / a.directions;
  const bool few = a.steps * a.batch < kRowsToPack || a.batch < kBatchToPack;
  // Layers alternate between y and one more sequence, so that the last one writes y.
  float* other = layers > 1 ? arena.floats(a.steps * state * a.directions) : nullptr;
  float* alone = a.directions > 1 ? arena.floats(a.steps * state) : nullptr;  // one direction
  const float* x = a.x;
  for (int64_t l = 0; l < layers; ++l) {
    float* y = (layers - l) % 2 == 1 ? a.y : other;
    for (int64_t d = 0; d < a.directions; ++d) {
      const int64_t n = l * a.directions + d, at = n * state;
      const bool cells = a.c != nullptr;
      const Run run{a.layers[static_cast<size_t>(n)], d == 1, x, a.h0 + at, cells ? a.c0 + at : nullptr,
                    a.directions > 1 ? alone : y, a.h + at, cells ? a.c + at : nullptr};
      few ? few_rows(a, run) : many_rows(a, run);
      for (int64_t row = 0; a.directions > 1 && row < a.steps * a.batch; ++row) {
        std::copy_n(alone + row * a.hidden, a.hidden, y + (row * a.directions + d) * a.hidden);
      }
    }
    x = y;
  }
}

}  // namespace strop
