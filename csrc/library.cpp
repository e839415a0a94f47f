// The operators of namespace `strop`.
#include <torch/csrc/stable/library.h>

#include <chrono>
#include <string>
#include <vector>

#include "cross_entropy.h"
#include "kernels.h"
#include "linear.h"
#include "operands.h"
#include "recurrence_eval.h"
#include "selection.h"
#include "tasks.h"

namespace strop {
namespace {

// Calls f.template operator()<T>() with the type that the products' operands are rounded to, by `run`, a function of a Task.
template <typename F>
void rounding_by(const Runner& run, bool bf16, int64_t steps, int64_t operations, const F& f) {
  STD_TORCH_CHECK(!bf16 || bf16_kernels() != nullptr, "bf16 needs a CPU with AVX512-BF16, and STROP_ISA avx512 or unset");
  run(Task{[&] { bf16 ? f.template operator()<Bf16>() : f.template operator()<float>(); }, steps, operations});
}

// The same with several threads, where its loops, of so many operations each, are worth them.
template <typename F>
void rounding(bool bf16, int64_t operations, const F& f) {
  rounding_by(run_task, bf16, 1, operations, f);
}

void linear_forward_op(const Tensor x, const Tensor weight, const Optional bias, const Optional index,
                       const Optional count, double scale, bool bf16, Tensor y) {
  Arena arena;
  Operands use;
  const LinearSize s{size(x, "x", 0, 3), size(x, "x", 1, 3), size(x, "x", 2, 3), size(weight, "weight", 0, 2)};
  rounding(bf16, s.operations(), [&]<typename T>() {
    linear_forward<T>(s, use.input(x, "x", {s.steps, s.batch, s.inputs}),
                      use.input(weight, "weight", {s.outputs, s.inputs}), use.input(bias, "bias", {s.outputs}),
                      keep_lists(index, count, scale, "keep", s.steps, s.inputs, use, arena),
                      use.output(y, "y", {s.steps, s.batch, s.outputs}));
  });
}

void linear_input_grad_op(const Tensor dy, const Tensor weight, const Optional index, const Optional count,
                          double scale, bool bf16, Tensor dx) {
  Arena arena;
  Operands use;
  const LinearSize s{size(dy, "dy", 0, 3), size(dy, "dy", 1, 3), size(weight, "weight", 1, 2), size(dy, "dy", 2, 3)};
  rounding(bf16, s.operations(), [&]<typename T>() {
    linear_input_grad<T>(s, use.input(dy, "dy", {s.steps, s.batch, s.outputs}),
                         use.input(weight, "weight", {s.outputs, s.inputs}),
                         keep_lists(index, count, scale, "keep", s.steps, s.inputs, use, arena),
                         use.output(dx, "dx", {s.steps, s.batch, s.inputs}));
  });
}

void linear_weight_grad_op(const Tensor x, const Tensor dy, const Optional index, const Optional count, double scale,
                           bool bf16, Tensor dw) {
  Arena arena;
  Operands use;
  const LinearSize s{size(x, "x", 0, 3), size(x, "x", 1, 3), size(x, "x", 2, 3), size(dy, "dy", 2, 3)};
  rounding(bf16, s.operations(), [&]<typename T>() {
    linear_weight_grad<T>(s, use.input(x, "x", {s.steps, s.batch, s.inputs}),
                          use.input(dy, "dy", {s.steps, s.batch, s.outputs}),
                          keep_lists(index, count, scale, "keep", s.steps, s.inputs, use, arena),
                          use.output(dw, "dw", {s.outputs, s.inputs}));
  });
}

CrossEntropy cross_entropy(LinearSize s, const Tensor& target, double smoothing, const Optional& index,
                           const Optional& count, double scale, Operands& use, Arena& arena) {
  STD_TORCH_CHECK(smoothing >= 0.0 && smoothing <= 1.0, "smoothing must be in [0, 1], not ", smoothing);
  const CrossEntropy a{s, use.list(target, "target", {s.steps, s.batch}),
                       keep_lists(index, count, scale, "keep", s.steps, s.inputs, use, arena),
                       static_cast<float>(smoothing)};
  for (int64_t row = 0; row < s.steps * s.batch; ++row) {
    STD_TORCH_CHECK(a.target[row] < s.outputs, "target must be below ", s.outputs, ", the number of classes, not ",
                    a.target[row]);
  }
  return a;
}

void linear_cross_entropy_op(const Tensor x, const Tensor weight, const Optional bias, const Tensor target,
                             double smoothing, const Optional index, const Optional count, double scale, bool bf16, Tensor loss,
                             const Optional exponentials, const Optional factors) {
  Arena arena;
  Operands use;
  const LinearSize s{size(x, "x", 0, 3), size(x, "x", 1, 3), size(x, "x", 2, 3), size(weight, "weight", 0, 2)};
  const CrossEntropy a = cross_entropy(s, target, smoothing, index, count, scale, use, arena);
  const int64_t P = Panels(1, s.outputs).count;
  STD_TORCH_CHECK(exponentials.has_value() == factors.has_value(), "exponentials need factors, and these need them");
  rounding(bf16, s.operations(), [&]<typename T>() {
  linear_cross_entropy<T>(a, use.input(x, "x", {s.steps, s.batch, s.inputs}),
                       use.input(weight, "weight", {s.outputs, s.inputs}), use.input(bias, "bias", {s.outputs}),
                       use.output(loss, "loss", {s.steps, s.batch}),
                       use.output(exponentials, "exponentials", {P, s.steps, s.batch, kPanel}),
                       use.output(factors, "factors", {P, s.steps, s.batch}));
  });
}

void linear_cross_entropy_grad_op(const Tensor dloss, const Tensor exponentials, const Tensor factors, const Tensor x,
                                  const Tensor weight, const Tensor target, double smoothing, const Optional index,
                                  const Optional count, double scale, bool bf16, const Optional dx, const Optional dw,
                                  const Optional db) {
  Arena arena;
  Operands use;
  const LinearSize s{size(x, "x", 0, 3), size(x, "x", 1, 3), size(x, "x", 2, 3), size(weight, "weight", 0, 2)};
  STD_TORCH_CHECK(dw.has_value() || !db.has_value(), "db needs dw: they are computed together");
  const CrossEntropy a = cross_entropy(s, target, smoothing, index, count, scale, use, arena);
  const int64_t P = Panels(1, s.outputs).count;
  rounding(bf16, s.operations(), [&]<typename T>() {
  linear_cross_entropy_grad<T>(a, use.input(exponentials, "exponentials", {P, s.steps, s.batch, kPanel}),
                            use.input(factors, "factors", {P, s.steps, s.batch}), use.input(dloss, "dloss", {s.steps, s.batch}),
                            use.input(x, "x", {s.steps, s.batch, s.inputs}),
                            use.input(weight, "weight", {s.outputs, s.inputs}),
                            use.output(dx, "dx", {s.steps, s.batch, s.inputs}),
                            use.output(dw, "dw", {s.outputs, s.inputs}), use.output(db, "db", {s.outputs}));
  });
}

void smallest_op(const Tensor keys, Tensor chosen) {
  Operands use;
  const int64_t rows = size(keys, "keys", 0, 2), columns = size(keys, "keys", 1, 2);
  STD_TORCH_CHECK(chosen.defined() && chosen.dim() == 2 && chosen.size(1) <= columns, "chosen must have shape [", rows,
                  ", at most ", columns, "]");
  const int64_t kept = chosen.size(1);
  smallest(use.list(keys, "keys", {rows, columns}), rows, columns, kept,
           use.output_list(chosen, "chosen", {rows, kept}));
}

// The masks of a layer as they come: lists of its input, and lists or a mask of its hidden state.
struct Drops {
  const Optional &input_index, &input_count;
  double input_scale;
  const Optional &index, &count;
  double scale;
  const Optional& mask;
};

// `hidden`: the cell's units, which only an LSTM may project onto those of h0.
Recurrence recurrence(int64_t cell, bool reverse, const Optional& batch_sizes, int64_t rows, int64_t inputs,
                      int64_t hidden, const Tensor& h0, const Drops& drops, Operands& use, Arena& arena) {
  const int64_t batch = size(h0, "h0", 0, 2), outputs = size(h0, "h0", 1, 2);
  STD_TORCH_CHECK(hidden < kLargest / 4, "hidden size must be below 2^29, not ", hidden);
  STD_TORCH_CHECK(outputs == hidden || cell_of(cell) == Cell::lstm, "h0 must have ", hidden, " units for this cell, not ",
                  outputs);
  const Steps steps = steps_of(batch_sizes, rows, batch, use, arena);
  const int64_t T = steps.steps;
  return {cell_of(cell), reverse, steps, inputs, hidden, outputs,
          keep_lists(drops.input_index, drops.input_count, drops.input_scale, "input keep", T, inputs, use, arena),
          keep_lists(drops.index, drops.count, drops.scale, "recurrent keep", T, outputs, use, arena),
          element_mask(drops.mask, drops.index, T, batch, outputs, use)};
}

// Hidden units of a layer that may project them by w_hr.
int64_t hidden_of(const Optional& w_hr, const Tensor& h0) {
  return w_hr.has_value() ? size(*w_hr, "w_hr", 1, 2) : size(h0, "h0", 1, 2);
}

bool is_projected(Cell cell, const Optional& w_hr) {
  STD_TORCH_CHECK(cell == Cell::lstm || !w_hr.has_value(), "w_hr must be None for this cell");
  return w_hr.has_value();
}

void recurrence_forward_op(const Runner& run, int64_t cell, bool reverse, const Optional batch_sizes, const Tensor x, const Tensor h0,
                           const Optional c0, const Tensor w_ih, const Tensor w_hh, const Optional b_ih,
                           const Optional b_hh, const Optional w_hr, const Optional input_index,
                           const Optional input_count, double input_scale, const Optional recurrent_index,
                           const Optional recurrent_count, double recurrent_scale, const Optional recurrent_mask, bool bf16, Tensor y,
                           Tensor gates, const Optional states, const Optional unprojected) {
  Arena arena;
  Operands use;
  const int64_t N = size(x, "x", 0, 2), I = size(x, "x", 1, 2), H = hidden_of(w_hr, h0);
  const Recurrence r = recurrence(
      cell, reverse, batch_sizes, N, I, H, h0,
      {input_index, input_count, input_scale, recurrent_index, recurrent_count, recurrent_scale, recurrent_mask}, use, arena);
  const int64_t B = r.size.batch, P = r.outputs, G = gates_of(r.cell);
  const bool lstm = r.cell == Cell::lstm, gru = r.cell == Cell::gru;
  const bool projected = is_projected(r.cell, w_hr);
  const RecurrenceForward args{r, use.input(x, "x", {N, I}), use.input(h0, "h0", {B, P}), use.input_if(lstm, c0, "c0", {B, H}),
                      use.input(w_ih, "w_ih", {G * H, I}), use.input(w_hh, "w_hh", {G * H, P}),
                      use.input(b_ih, "b_ih", {G * H}), use.input(b_hh, "b_hh", {G * H}), use.input(w_hr, "w_hr", {P, H}),
                      use.output(y, "y", {N, P}), use.output(gates, "gates", {N, r.panels().count * kPanel}),
                      use.output_if(lstm || gru, states, "states", {N, H}),
                      use.output_if(projected, unprojected, "unprojected", {N, H})};
  rounding_by(run, bf16, r.size.steps, 2 * B * P * G * H, [&]<typename T>() { recurrence_forward<T>(args); });
}

void recurrence_backward_op(const Runner& run, int64_t cell, bool reverse, const Optional batch_sizes, const Optional dy, const Optional dh,
                            const Optional dc, const Tensor y, const Tensor h0, const Optional c0, const Tensor w_ih,
                            const Tensor w_hh, const Optional w_hr, const Tensor gates, const Optional states,
                            const Optional input_index, const Optional input_count, double input_scale,
                            const Optional recurrent_index, const Optional recurrent_count, double recurrent_scale,
                            const Optional recurrent_mask, bool bf16, Tensor dgates, const Optional drecurrent,
                            const Optional dprojected, const Optional dx, Tensor dh0, const Optional dc0) {
  Arena arena;
  Operands use;
  const int64_t N = size(y, "y", 0, 2), I = size(w_ih, "w_ih", 1, 2), H = hidden_of(w_hr, h0);
  const Recurrence r = recurrence(
      cell, reverse, batch_sizes, N, I, H, h0,
      {input_index, input_count, input_scale, recurrent_index, recurrent_count, recurrent_scale, recurrent_mask}, use, arena);
  const int64_t B = r.size.batch, P = r.outputs, G = gates_of(r.cell), row = r.panels().count * kPanel;
  const bool lstm = r.cell == Cell::lstm, gru = r.cell == Cell::gru;
  const bool projected = is_projected(r.cell, w_hr);
  STD_TORCH_CHECK(lstm || !dc.has_value(), "dc must be None for this cell");
  const RecurrenceBackward args{r, use.input(dy, "dy", {N, P}), use.input(dh, "dh", {B, P}), use.input(dc, "dc", {B, H}),
                       use.input(y, "y", {N, P}), use.input(h0, "h0", {B, P}), use.input_if(lstm, c0, "c0", {B, H}),
                       use.input(w_ih, "w_ih", {G * H, I}), use.input(w_hh, "w_hh", {G * H, P}),
                       use.input(w_hr, "w_hr", {P, H}), use.input(gates, "gates", {N, row}),
                       use.input_if(lstm || gru, states, "states", {N, H}), use.output(dgates, "dgates", {N, row}),
                       use.output_if(gru, drecurrent, "drecurrent", {N, row}),
                       use.output_if(projected, dprojected, "dprojected", {N, P}),
                       use.output(dx, "dx", {N, I}), use.output(dh0, "dh0", {B, P}),
                       use.output_if(lstm, dc0, "dc0", {B, H})};
  rounding_by(run, bf16, r.size.steps, 2 * B * P * G * H, [&]<typename T>() { recurrence_backward<T>(args); });
}

void recurrence_weight_grad_op(const Runner& run, int64_t cell, bool reverse, const Optional batch_sizes, const Tensor x, const Tensor y,
                               const Tensor h0, const Tensor dgates, const Optional drecurrent,
                               const Optional input_index, const Optional input_count, double input_scale,
                               const Optional recurrent_index, const Optional recurrent_count, double recurrent_scale,
                               const Optional recurrent_mask, bool bf16, Tensor dw_ih, Tensor dw_hh, Tensor db_ih,
                               const Optional db_hh) {
  Arena arena;
  Operands use;
  const int64_t N = size(x, "x", 0, 2), I = size(x, "x", 1, 2);
  const int64_t H = size(dw_ih, "dw_ih", 0, 2) / gates_of(cell_of(cell));
  const Recurrence r = recurrence(
      cell, reverse, batch_sizes, N, I, H, h0,
      {input_index, input_count, input_scale, recurrent_index, recurrent_count, recurrent_scale, recurrent_mask}, use, arena);
  const int64_t B = r.size.batch, P = r.outputs, G = gates_of(r.cell), row = r.panels().count * kPanel;
  const bool gru = r.cell == Cell::gru;
  const RecurrenceWeightGrad args{r, use.input(x, "x", {N, I}), use.input(y, "y", {N, P}), use.input(h0, "h0", {B, P}),
                          use.input(dgates, "dgates", {N, row}), use.input_if(gru, drecurrent, "drecurrent", {N, row}),
                          use.output(dw_ih, "dw_ih", {G * H, I}), use.output(dw_hh, "dw_hh", {G * H, P}),
                          use.output(db_ih, "db_ih", {G * H}), use.output_if(gru, db_hh, "db_hh", {G * H})};
  rounding_by(run, bf16, 1, 2 * N * (I + P) * G * H, [&]<typename T>() { recurrence_weight_grad<T>(args); });
}

// `weights` are w_ih, w_hh and, where there are biases, b_ih, b_hh of each direction of each layer in turn.
void recurrence_eval_op(int64_t cell, bool bidirectional, const Tensor x, const Tensor h0, const Optional c0,
                        const std::vector<Tensor> weights, bool has_bias, Tensor y, Tensor h, const Optional c) {
  const int64_t T = size(x, "x", 0, 3), B = size(x, "x", 1, 3), I = size(x, "x", 2, 3);
  const int64_t L = size(h0, "h0", 0, 3), H = size(h0, "h0", 2, 3), D = bidirectional ? 2 : 1;
  const Cell kind = cell_of(cell);
  const int64_t G = gates_of(kind), each = has_bias ? 4 : 2;
  const bool lstm = kind == Cell::lstm;
  STD_TORCH_CHECK(H < kLargest / 4, "hidden size must be below 2^29, not ", H);
  STD_TORCH_CHECK(L % D == 0, "h0 must have two states for each layer, not ", L, " in all");
  STD_TORCH_CHECK(static_cast<int64_t>(weights.size()) == L * each, L, " layers and directions need ", L * each,
                  " weights, not ", weights.size());
  Operands use;
  RecurrenceEval args{kind, T, B, H, D, {}, use.input(x, "x", {T, B, I}), use.input(h0, "h0", {L, B, H}),
                      use.input_if(lstm, c0, "c0", {L, B, H}), use.output(y, "y", {T, B, D * H}),
                      use.output(h, "h", {L, B, H}), use.output_if(lstm, c, "c", {L, B, H})};
  for (int64_t l = 0; l < L; ++l) {
    const Tensor* w = weights.data() + l * each;
    const int64_t inputs = l < D ? I : D * H;
    args.layers.push_back({inputs, use.input(w[0], "w_ih", {G * H, inputs}), use.input(w[1], "w_hh", {G * H, H}),
                           has_bias ? use.input(w[2], "b_ih", {G * H}) : nullptr,
                           has_bias ? use.input(w[3], "b_hh", {G * H}) : nullptr});
  }
  with_team_for(2 * B * H * G * H, [&] { recurrence_eval(args); });
}

// GFLOP/s of fused multiply-adds in registers on all threads: what no product can exceed.
double fma_peak_op(int64_t iterations) {
  STD_TORCH_CHECK(iterations > 0, "iterations must be positive, not ", iterations);
  std::vector<double> operations(static_cast<size_t>(threads()), 0.0);
  const auto start = std::chrono::steady_clock::now();
  parallel(threads(), 1, [&](int64_t thread, int64_t, int64_t) {
    operations[static_cast<size_t>(thread)] += kernels().fma_chain(iterations);
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  double total = 0.0;
  for (const double some : operations) total += some;
  return total / seconds.count() * 1e-9;
}

bool has_bf16_op() { return bf16_kernels() != nullptr; }

std::string isa_op() { return kernels().name; }

}  // namespace
}  // namespace strop

STABLE_TORCH_LIBRARY(strop, m) {
  // An operation, and the same of two layers that do not depend on each other: a 2 behind the names of the second's arguments.
  const auto define_both = [&m](const std::string& schema) {
    const size_t open = schema.find('('), close = schema.rfind(')', schema.find("->"));
    std::string both(schema, 0, open);
    both += "_of_two";
    both.append(schema, open, close - open);
    both += ", ";
    for (size_t at = open + 1; at < close; ++at) {
      if (schema[at] == ',') both += '2';
      if (schema[at] == '!') both.back() += 13;  // another alias
      both += schema[at];
    }
    both += '2';
    both.append(schema, close);
    m.def(schema.c_str());
    m.def(both.c_str());
  };
  m.def("isa() -> str");
  m.def("has_bf16() -> bool");
  m.def("fma_peak(int iterations) -> float");
  m.def("smallest(Tensor keys, Tensor(a!) chosen) -> ()");
  m.def(
      "linear_forward(Tensor x, Tensor weight, Tensor? bias, Tensor? index, Tensor? count, float scale, bool bf16, "
      "Tensor(a!) y) -> ()");
  m.def(
      "linear_input_grad(Tensor dy, Tensor weight, Tensor? index, Tensor? count, float scale, bool bf16, "
      "Tensor(a!) dx) -> ()");
  m.def(
      "linear_weight_grad(Tensor x, Tensor dy, Tensor? index, Tensor? count, float scale, bool bf16, Tensor(a!) dw) -> ()");
  m.def(
      "linear_cross_entropy(Tensor x, Tensor weight, Tensor? bias, Tensor target, float smoothing, Tensor? index, "
      "Tensor? count, float scale, bool bf16, Tensor(a!) loss, Tensor(b!)? exponentials, Tensor(c!)? factors) -> ()");
  m.def(
      "linear_cross_entropy_grad(Tensor dloss, Tensor exponentials, Tensor factors, Tensor x, Tensor weight, "
      "Tensor target, float smoothing, Tensor? index, Tensor? count, float scale, bool bf16, Tensor(a!)? dx, Tensor(b!)? dw, "
      "Tensor(c!)? db) -> ()");
  // cell: 0 LSTM, 1 GRU, 2 RNN with tanh, 3 RNN with relu.
  define_both(
      "recurrence_forward(int cell, bool reverse, Tensor? batch_sizes, Tensor x, Tensor h0, Tensor? c0, Tensor w_ih, "
      "Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? w_hr, Tensor? input_index, Tensor? input_count, float input_scale, "
      "Tensor? recurrent_index, Tensor? recurrent_count, float recurrent_scale, Tensor? recurrent_mask, bool bf16, "
      "Tensor(a!) y, Tensor(b!) gates, Tensor(c!)? states, Tensor(d!)? unprojected) -> ()");
  define_both(
      "recurrence_backward(int cell, bool reverse, Tensor? batch_sizes, Tensor? dy, Tensor? dh, Tensor? dc, Tensor y, "
      "Tensor h0, Tensor? c0, Tensor w_ih, Tensor w_hh, Tensor? w_hr, Tensor gates, Tensor? states, "
      "Tensor? input_index, Tensor? input_count, float input_scale, "
      "Tensor? recurrent_index, Tensor? recurrent_count, float recurrent_scale, Tensor? recurrent_mask, bool bf16, "
      "Tensor(a!) dgates, Tensor(b!)? drecurrent, Tensor(c!)? dprojected, Tensor(d!)? dx, Tensor(e!) dh0, "
      "Tensor(f!)? dc0) -> ()");
  define_both(
      "recurrence_weight_grad(int cell, bool reverse, Tensor? batch_sizes, Tensor x, Tensor y, Tensor h0, "
      "Tensor dgates, Tensor? drecurrent, Tensor? input_index, Tensor? input_count, float input_scale, "
      "Tensor? recurrent_index, Tensor? recurrent_count, float recurrent_scale, Tensor? recurrent_mask, bool bf16, "
      "Tensor(a!) dw_ih, Tensor(b!) dw_hh, Tensor(c!) db_ih, Tensor(d!)? db_hh) -> ()");
  m.def(
      "recurrence_eval(int cell, bool bidirectional, Tensor x, Tensor h0, Tensor? c0, Tensor[] weights, bool has_bias, "
      "Tensor(a!) y, Tensor(b!) h, Tensor(c!)? c) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(strop, CPU, m) {
  m.impl("smallest", TORCH_BOX(&strop::smallest_op));
  m.impl("linear_forward", TORCH_BOX(&strop::linear_forward_op));
  m.impl("linear_input_grad", TORCH_BOX(&strop::linear_input_grad_op));
  m.impl("linear_weight_grad", TORCH_BOX(&strop::linear_weight_grad_op));
  m.impl("linear_cross_entropy", TORCH_BOX(&strop::linear_cross_entropy_op));
  m.impl("linear_cross_entropy_grad", TORCH_BOX(&strop::linear_cross_entropy_grad_op));
  m.impl("recurrence_forward", TORCH_BOX(&strop::Operation<&strop::recurrence_forward_op>::one));
  m.impl("recurrence_forward_of_two", TORCH_BOX(&strop::Operation<&strop::recurrence_forward_op>::two));
  m.impl("recurrence_backward", TORCH_BOX(&strop::Operation<&strop::recurrence_backward_op>::one));
  m.impl("recurrence_backward_of_two", TORCH_BOX(&strop::Operation<&strop::recurrence_backward_op>::two));
  m.impl("recurrence_weight_grad", TORCH_BOX(&strop::Operation<&strop::recurrence_weight_grad_op>::one));
  m.impl("recurrence_weight_grad_of_two", TORCH_BOX(&strop::Operation<&strop::recurrence_weight_grad_op>::two));
  m.impl("recurrence_eval", TORCH_BOX(&strop::recurrence_eval_op));
}

STABLE_TORCH_LIBRARY_IMPL(strop, CompositeExplicitAutograd, m) {
  m.impl("isa", TORCH_BOX(&strop::isa_op));
  m.impl("has_bf16", TORCH_BOX(&strop::has_bf16_op));
  m.impl("fma_peak", TORCH_BOX(&strop::fma_peak_op));
}
