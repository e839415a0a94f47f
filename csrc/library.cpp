// The operators of namespace `strop`: arguments are checked here, before any kernel reads them.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "kernels.h"
#include "linear.h"
#include "lstm.h"
#include "lstm_eval.h"
#include "selection.h"

namespace strop {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

constexpr int64_t kLargest = int64_t{1} << 31;  // index lists are int32

std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(tensor.size(i));
  return text + "]";
}

void check_tensor(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape, ScalarType type) {
  STD_TORCH_CHECK(tensor.defined(), name, " must be a tensor, not None");
  STD_TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU");
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, " must be ",
                  type == ScalarType::Float ? "float32" : "int32");
  bool same = tensor.dim() == static_cast<int64_t>(shape.size());
  std::string wanted = "[";
  int64_t i = 0;
  for (const int64_t size : shape) {
    same = same && tensor.size(i) == size;
    wanted += (i > 0 ? ", " : "") + std::to_string(size);
    ++i;
  }
  STD_TORCH_CHECK(same, name, " must have shape ", wanted, "], not ", shape_of(tensor));
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

// The memory of the tensors of one call. A result that shares memory with another of them is refused: kernels read
// operands, index lists among them, while they write results.
class Operands {
 public:
  const float* input(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape) {
    check_tensor(tensor, name, shape, ScalarType::Float);
    return add(static_cast<const float*>(tensor.const_data_ptr()), tensor, name, false);
  }

  const float* input(const Optional& tensor, const char* name, std::initializer_list<int64_t> shape) {
    return tensor.has_value() ? input(*tensor, name, shape) : nullptr;
  }

  const int32_t* list(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape) {
    check_tensor(tensor, name, shape, ScalarType::Int);
    return add(static_cast<const int32_t*>(tensor.const_data_ptr()), tensor, name, false);
  }

  float* output(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape) {
    check_tensor(tensor, name, shape, ScalarType::Float);
    auto* data = add(static_cast<float*>(tensor.mutable_data_ptr()), tensor, name, true);
    advise_huge(data, static_cast<size_t>(tensor.numel()) * sizeof(float));
    return data;
  }

  int32_t* output_list(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape) {
    check_tensor(tensor, name, shape, ScalarType::Int);
    return add(static_cast<int32_t*>(tensor.mutable_data_ptr()), tensor, name, true);
  }

  float* output(const Optional& tensor, const char* name, std::initializer_list<int64_t> shape) {
    return tensor.has_value() ? output(*tensor, name, shape) : nullptr;
  }

 private:
  struct Memory {
    uintptr_t begin, end;
    bool written;
    const char* name;
  };
  std::vector<Memory> seen_;

  template <typename T>
  T* add(T* data, const Tensor& tensor, const char* name, bool written) {
    const int64_t bytes = tensor.numel() * static_cast<int64_t>(sizeof(T));
    if (bytes == 0) return data;
    int64_t stored = 0, offset = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &stored));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(tensor.get(), &offset));
    STD_TORCH_CHECK(data != nullptr && offset * static_cast<int64_t>(sizeof(T)) + bytes <= stored, name,
                    " needs ", bytes, " bytes of memory, its storage has ", stored);
    const auto begin = reinterpret_cast<uintptr_t>(data);
    STD_TORCH_CHECK(begin % alignof(T) == 0, name, " must be aligned to ", alignof(T), " bytes");
    const Memory memory{begin, begin + static_cast<uintptr_t>(bytes), written, name};
    for (const Memory& other : seen_) {
      STD_TORCH_CHECK(!(written || other.written) || memory.end <= other.begin || other.end <= memory.begin, name,
                      " must not share memory with ", other.name);
    }
    seen_.push_back(memory);
    return data;
  }
};

int64_t size(const Tensor& tensor, const char* name, int64_t dim, int64_t dims) {
  STD_TORCH_CHECK(tensor.defined(), name, " must be a tensor, not None");
  STD_TORCH_CHECK(tensor.dim() == dims, name, " must have ", dims, " dimensions, not shape ", shape_of(tensor));
  const int64_t value = tensor.size(dim);
  STD_TORCH_CHECK(value > 0 && value < kLargest, name, " must have 1 to 2^31 - 1 elements in dimension ", dim,
                  ", not ", value);
  return value;
}

// The lists of one mask: sorted, without repetition, inside [0, units).
Keep keep_lists(const Optional& index, const Optional& count, double scale, const char* name, int64_t steps,
                int64_t units, Operands& use, Arena& arena) {
  if (!index.has_value()) {
    STD_TORCH_CHECK(!count.has_value(), name, ": a count needs its index lists");
    return keep_all(units, arena);
  }
  STD_TORCH_CHECK(index->dim() == 2 && index->size(1) <= units, name, ": index must have shape [", steps,
                  ", at most ", units, "], not ", shape_of(*index));
  STD_TORCH_CHECK(std::abs(scale) <= std::numeric_limits<float>::max(), name,
                  ": scale must be finite in float32, not ", scale);
  Keep keep;
  keep.index = use.list(*index, name, {steps, index->size(1)});
  keep.width = keep.stride = index->size(1);
  keep.scale = static_cast<float>(scale);
  if (count.has_value()) keep.count = use.list(*count, name, {steps});
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t kept = keep.kept(t);
    STD_TORCH_CHECK(kept >= 0 && kept <= keep.width, name, ": count of step ", t, " must be in [0, ", keep.width,
                    "], not ", kept);
    int64_t before = -1;
    for (int64_t i = 0; i < kept; ++i) {
      const int64_t unit = keep.row(t)[i];
      STD_TORCH_CHECK(unit > before && unit < units, name,
                      ": index lists must be sorted, without repetition and in [0, ", units, "): step ", t, " has ", unit,
                      " after ", before);
      before = unit;
    }
  }
  return keep;
}

struct Mask {
  const float* data;
  int64_t stride;
};

Mask element_mask(const Optional& mask, const Optional& index, int64_t steps, int64_t batch, int64_t hidden,
                  Operands& use) {
  if (!mask.has_value()) return {nullptr, 0};
  STD_TORCH_CHECK(!index.has_value(), "recurrent mask: give either index lists or an element mask, not both");
  const int64_t draws = size(*mask, "recurrent mask", 0, 3);
  STD_TORCH_CHECK(draws == 1 || draws == steps, "recurrent mask must have 1 or ", steps, " steps, not ", draws);
  return {use.input(mask, "recurrent mask", {draws, batch, hidden}), draws == 1 ? 0 : batch * hidden};
}

void linear_forward_op(const Tensor x, const Tensor weight, const Optional bias, const Optional index,
                       const Optional count, double scale, Tensor y) {
  Arena arena;
  Operands use;
  const LinearSize s{size(x, "x", 0, 3), size(x, "x", 1, 3), size(x, "x", 2, 3), size(weight, "weight", 0, 2)};
  linear_forward(s, use.input(x, "x", {s.steps, s.batch, s.inputs}),
                 use.input(weight, "weight", {s.outputs, s.inputs}), use.input(bias, "bias", {s.outputs}),
                 keep_lists(index, count, scale, "keep", s.steps, s.inputs, use, arena),
                 use.output(y, "y", {s.steps, s.batch, s.outputs}));
}

void linear_input_grad_op(const Tensor dy, const Tensor weight, const Optional index, const Optional count,
                          double scale, Tensor dx) {
  Arena arena;
  Operands use;
  const LinearSize s{size(dy, "dy", 0, 3), size(dy, "dy", 1, 3), size(weight, "weight", 1, 2), size(dy, "dy", 2, 3)};
  linear_input_grad(s, use.input(dy, "dy", {s.steps, s.batch, s.outputs}),
                    use.input(weight, "weight", {s.outputs, s.inputs}),
                    keep_lists(index, count, scale, "keep", s.steps, s.inputs, use, arena),
                    use.output(dx, "dx", {s.steps, s.batch, s.inputs}));
}

void linear_weight_grad_op(const Tensor x, const Tensor dy, const Optional index, const Optional count, double scale,
                           Tensor dw) {
  Arena arena;
  Operands use;
  const LinearSize s{size(x, "x", 0, 3), size(x, "x", 1, 3), size(x, "x", 2, 3), size(dy, "dy", 2, 3)};
  linear_weight_grad(s, use.input(x, "x", {s.steps, s.batch, s.inputs}),
                     use.input(dy, "dy", {s.steps, s.batch, s.outputs}),
                     keep_lists(index, count, scale, "keep", s.steps, s.inputs, use, arena),
                     use.output(dw, "dw", {s.outputs, s.inputs}));
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

LstmSize lstm_size(const Tensor& x, const Tensor& h0) {
  const LstmSize s{size(x, "x", 0, 3), size(x, "x", 1, 3), size(x, "x", 2, 3), size(h0, "h0", 1, 2)};
  STD_TORCH_CHECK(s.hidden < kLargest / 4, "hidden size must be below 2^29, not ", s.hidden);
  return s;
}

void lstm_forward_op(const Tensor x, const Tensor h0, const Tensor c0, const Tensor w_ih, const Tensor w_hh,
                     const Optional b_ih, const Optional b_hh, const Optional input_index,
                     const Optional input_count, double input_scale, const Optional recurrent_index,
                     const Optional recurrent_count, double recurrent_scale, const Optional recurrent_mask, Tensor y,
                     Tensor gates, Tensor cells) {
  Arena arena;
  Operands use;
  const LstmSize s = lstm_size(x, h0);
  const auto [T, B, I, H] = s;
  const Mask mask = element_mask(recurrent_mask, recurrent_index, T, B, H, use);
  lstm_forward({s, use.input(x, "x", {T, B, I}), use.input(h0, "h0", {B, H}), use.input(c0, "c0", {B, H}),
                use.input(w_ih, "w_ih", {4 * H, I}), use.input(w_hh, "w_hh", {4 * H, H}),
                use.input(b_ih, "b_ih", {4 * H}), use.input(b_hh, "b_hh", {4 * H}),
                keep_lists(input_index, input_count, input_scale, "input keep", T, I, use, arena),
                keep_lists(recurrent_index, recurrent_count, recurrent_scale, "recurrent keep", T, H, use, arena),
                mask.data, mask.stride, use.output(y, "y", {T, B, H}),
                use.output(gates, "gates", {T, Panels::gates(H).count, B, kPanel}),
                use.output(cells, "cells", {T, B, H})});
}

void lstm_backward_op(const Optional dy, const Optional dh, const Optional dc, const Tensor c0, const Tensor w_ih,
                      const Tensor w_hh, const Tensor gates, const Tensor cells, const Optional input_index,
                      const Optional input_count, double input_scale, const Optional recurrent_index,
                      const Optional recurrent_count, double recurrent_scale, const Optional recurrent_mask,
                      Tensor dgates, const Optional dx, Tensor dh0, Tensor dc0) {
  Arena arena;
  Operands use;
  const int64_t T = size(cells, "cells", 0, 3), B = size(cells, "cells", 1, 3), H = size(cells, "cells", 2, 3);
  const int64_t I = size(w_ih, "w_ih", 1, 2), P = Panels::gates(H).count;
  STD_TORCH_CHECK(H < kLargest / 4, "hidden size must be below 2^29, not ", H);
  const Mask mask = element_mask(recurrent_mask, recurrent_index, T, B, H, use);
  lstm_backward({{T, B, I, H}, use.input(dy, "dy", {T, B, H}), use.input(dh, "dh", {B, H}),
                 use.input(dc, "dc", {B, H}), use.input(c0, "c0", {B, H}), use.input(w_ih, "w_ih", {4 * H, I}),
                 use.input(w_hh, "w_hh", {4 * H, H}),
                 use.input(gates, "gates", {T, P, B, kPanel}), use.input(cells, "cells", {T, B, H}),
                 keep_lists(input_index, input_count, input_scale, "input keep", T, I, use, arena),
                 keep_lists(recurrent_index, recurrent_count, recurrent_scale, "recurrent keep", T, H, use, arena),
                 mask.data, mask.stride, use.output(dgates, "dgates", {T, P, B, kPanel}),
                 use.output(dx, "dx", {T, B, I}), use.output(dh0, "dh0", {B, H}), use.output(dc0, "dc0", {B, H})});
}

void lstm_weight_grad_op(const Tensor x, const Tensor y, const Tensor h0, const Tensor dgates,
                         const Optional input_index, const Optional input_count, double input_scale,
                         const Optional recurrent_index, const Optional recurrent_count, double recurrent_scale,
                         const Optional recurrent_mask, Tensor dw_ih, Tensor dw_hh, Tensor db) {
  Arena arena;
  Operands use;
  const LstmSize s = lstm_size(x, h0);
  const auto [T, B, I, H] = s;
  const Mask mask = element_mask(recurrent_mask, recurrent_index, T, B, H, use);
  lstm_weight_grad({s, use.input(x, "x", {T, B, I}), use.input(y, "y", {T, B, H}), use.input(h0, "h0", {B, H}),
                    use.input(dgates, "dgates", {T, Panels::gates(H).count, B, kPanel}),
                    keep_lists(input_index, input_count, input_scale, "input keep", T, I, use, arena),
                    keep_lists(recurrent_index, recurrent_count, recurrent_scale, "recurrent keep", T, H, use, arena),
                    mask.data, mask.stride, use.output(dw_ih, "dw_ih", {4 * H, I}),
                    use.output(dw_hh, "dw_hh", {4 * H, H}), use.output(db, "db", {4 * H})});
}

// `weights` are w_ih, w_hh and, where there are biases, b_ih, b_hh of each layer in turn.
void lstm_eval_op(const Tensor x, const Tensor h0, const Tensor c0, const std::vector<Tensor> weights, bool has_bias,
                  Tensor y, Tensor h, Tensor c) {
  const int64_t T = size(x, "x", 0, 3), B = size(x, "x", 1, 3), I = size(x, "x", 2, 3);
  const int64_t L = size(h0, "h0", 0, 3), H = size(h0, "h0", 2, 3);
  STD_TORCH_CHECK(H < kLargest / 4, "hidden size must be below 2^29, not ", H);
  const int64_t each = has_bias ? 4 : 2;
  STD_TORCH_CHECK(static_cast<int64_t>(weights.size()) == L * each, L, " layers need ", L * each, " weights, not ",
                  weights.size());
  Operands use;
  LstmEval args{T, B, H, {}, use.input(x, "x", {T, B, I}), use.input(h0, "h0", {L, B, H}),
                use.input(c0, "c0", {L, B, H}),
                use.output(y, "y", {T, B, H}), use.output(h, "h", {L, B, H}), use.output(c, "c", {L, B, H})};
  for (int64_t l = 0; l < L; ++l) {
    const Tensor* w = weights.data() + l * each;
    const int64_t inputs = l == 0 ? I : H;
    args.layers.push_back({inputs, use.input(w[0], "w_ih", {4 * H, inputs}), use.input(w[1], "w_hh", {4 * H, H}),
                           has_bias ? use.input(w[2], "b_ih", {4 * H}) : nullptr,
                           has_bias ? use.input(w[3], "b_hh", {4 * H}) : nullptr});
  }
  lstm_eval(args);
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

std::string isa_op() { return kernels().name; }

}  // namespace
}  // namespace strop

STABLE_TORCH_LIBRARY(strop, m) {
  m.def("isa() -> str");
  m.def("fma_peak(int iterations) -> float");
  m.def("smallest(Tensor keys, Tensor(a!) chosen) -> ()");
  m.def(
      "linear_forward(Tensor x, Tensor weight, Tensor? bias, Tensor? index, Tensor? count, float scale, "
      "Tensor(a!) y) -> ()");
  m.def(
      "linear_input_grad(Tensor dy, Tensor weight, Tensor? index, Tensor? count, float scale, Tensor(a!) dx) -> ()");
  m.def("linear_weight_grad(Tensor x, Tensor dy, Tensor? index, Tensor? count, float scale, Tensor(a!) dw) -> ()");
  m.def(
      "lstm_forward(Tensor x, Tensor h0, Tensor c0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
      "Tensor? input_index, Tensor? input_count, float input_scale, "
      "Tensor? recurrent_index, Tensor? recurrent_count, float recurrent_scale, Tensor? recurrent_mask, "
      "Tensor(a!) y, Tensor(b!) gates, Tensor(c!) cells) -> ()");
  m.def(
      "lstm_backward(Tensor? dy, Tensor? dh, Tensor? dc, Tensor c0, Tensor w_ih, Tensor w_hh, Tensor gates, "
      "Tensor cells, Tensor? input_index, Tensor? input_count, float input_scale, "
      "Tensor? recurrent_index, Tensor? recurrent_count, float recurrent_scale, Tensor? recurrent_mask, "
      "Tensor(a!) dgates, Tensor(b!)? dx, Tensor(c!) dh0, Tensor(d!) dc0) -> ()");
  m.def(
      "lstm_weight_grad(Tensor x, Tensor y, Tensor h0, Tensor dgates, "
      "Tensor? input_index, Tensor? input_count, float input_scale, "
      "Tensor? recurrent_index, Tensor? recurrent_count, float recurrent_scale, Tensor? recurrent_mask, "
      "Tensor(a!) dw_ih, Tensor(b!) dw_hh, Tensor(c!) db) -> ()");
  m.def(
      "lstm_eval(Tensor x, Tensor h0, Tensor c0, Tensor[] weights, bool has_bias, Tensor(a!) y, Tensor(b!) h, "
      "Tensor(c!) c) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(strop, CPU, m) {
  m.impl("smallest", TORCH_BOX(&strop::smallest_op));
  m.impl("linear_forward", TORCH_BOX(&strop::linear_forward_op));
  m.impl("linear_input_grad", TORCH_BOX(&strop::linear_input_grad_op));
  m.impl("linear_weight_grad", TORCH_BOX(&strop::linear_weight_grad_op));
  m.impl("lstm_forward", TORCH_BOX(&strop::lstm_forward_op));
  m.impl("lstm_backward", TORCH_BOX(&strop::lstm_backward_op));
  m.impl("lstm_weight_grad", TORCH_BOX(&strop::lstm_weight_grad_op));
  m.impl("lstm_eval", TORCH_BOX(&strop::lstm_eval_op));
}

STABLE_TORCH_LIBRARY_IMPL(strop, CompositeExplicitAutograd, m) {
  m.impl("isa", TORCH_BOX(&strop::isa_op));
  m.impl("fma_peak", TORCH_BOX(&strop::fma_peak_op));
}
