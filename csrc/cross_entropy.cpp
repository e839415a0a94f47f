#include "cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace strop {
namespace {

constexpr int64_t kMoveOperations = 16;  // time of moving a float, in operations of a product
constexpr int64_t kRows = 64;            // rows that are finished together: their maxima stay in L1

// The classes of a panel: [first, first + valid).
struct Classes {
  int64_t first, valid;
  Classes(int64_t panel, int64_t classes) : first(panel * kPanel), valid(std::min(kPanel, classes - first)) {}
  // Where in the panel a target is, or -1.
  int64_t place(int32_t target) const { return target >= first && target < first + valid ? target - first : -1; }
};

}  // namespace

template <typename T>
void linear_cross_entropy(const CrossEntropy& a, const float* x, const float* weight, const float* bias, float* loss,
                          float* exponentials, float* factors) {
  Arena arena;
  const int64_t steps = a.size.steps, batch = a.size.batch, inputs = a.size.inputs, outputs = a.size.outputs;
  const Panels panels(1, outputs);
  const int64_t rows = steps * batch;
  const Keep& keep = a.keep;
  const Steps all{steps, batch};
  const ForwardPlace<T> place{keep.width};
  T* packed_x = arena.many<T>(place.total(all));
  pack_columns(x, all, inputs, keep, place, packed_x);
  T* packed_w = arena.many<T>(threads() * panel_size(inputs));
  float* scratch = exponentials == nullptr ? arena.floats(threads() * batch * kPanel) : nullptr;
  float* largest = factors == nullptr ? arena.floats(panels.count * rows) : factors;
  float* sums = arena.floats(panels.count * rows);
  float* totals = a.smoothing == 0.0f ? nullptr : arena.floats(panels.count * rows);  // of logits
  float* of_target = arena.floats(rows);  // logits

  const int64_t operations = 2 * steps * keep.width * kPanel * batch;
  parallel(panels.count, grain(panels.count, 1, operations), [&](int64_t thread, int64_t begin, int64_t end) {
    T* panel = packed_w + thread * panel_size(inputs);
    for (int64_t p = begin; p < end; ++p) {
      const Classes classes(p, outputs);
      float start[kPanel];  // lanes without a class have no part in the softmax
      std::fill_n(start, kPanel, -std::numeric_limits<float>::infinity());
      if (bias != nullptr) std::copy_n(bias + classes.first, classes.valid, start);
      if (bias == nullptr) std::fill_n(start, classes.valid, 0.0f);
      products<T>().pack(weight, inputs, panels.rows(p), inputs, panel, kPanel);
      for (int64_t t = 0; t < steps; ++t) {
        const int64_t row = t * batch;
        float* logits = exponentials == nullptr ? scratch + thread * batch * kPanel
                                                : exponentials + (p * rows + row) * kPanel;
        for (int64_t b = 0; b < batch; ++b) std::copy_n(start, kPanel, logits + b * kPanel);
        products<T>().forward(packed_x + place.at(all, t), batch, keep.row(t), 0, keep.kept(t), panel, batch, logits,
                              nullptr);
        for (int64_t b = 0; b < batch; ++b) {
          const int64_t place = classes.place(a.target[row + b]);
          if (place >= 0) of_target[row + b] = logits[b * kPanel + place];
          if (totals == nullptr) continue;
          double total = 0.0;
          for (int64_t j = 0; j < classes.valid; ++j) total += logits[b * kPanel + j];
          totals[p * rows + row + b] = static_cast<float>(total);
        }
        kernels().exponentials(logits, batch, largest + p * rows + row, sums + p * rows + row);
      }
    }
  });

  parallel(rows, grain(rows, kRows, panels.count * kMoveOperations), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float top = -std::numeric_limits<float>::infinity();
      for (int64_t p = 0; p < panels.count; ++p) top = std::max(top, largest[p * rows + row]);
      double sum = 0.0, total = 0.0;
      for (int64_t p = 0; p < panels.count; ++p) {
        float& factor = largest[p * rows + row];
        factor = std::exp(factor - top);
        sum += static_cast<double>(factor) * sums[p * rows + row];
        if (totals != nullptr) total += totals[p * rows + row];
      }
      const auto share = static_cast<float>(1.0 / sum);
      for (int64_t p = 0; p < panels.count; ++p) largest[p * rows + row] *= share;
      if (a.target[row] < 0) {
        loss[row] = 0.0f;
        continue;
      }
      const double log_sum = std::log(sum);
      double value = (1.0 - a.smoothing) * (top - of_target[row] + log_sum);
      if (totals != nullptr) value += a.smoothing * (top - total / outputs + log_sum);
      loss[row] = static_cast<float>(value);
    }
  });
}

template <typename T>
void linear_cross_entropy_grad(const CrossEntropy& a, const float* exponentials, const float* factors,
                               const float* dloss, const float* x, const float* weight, float* dx, float* dw, float* db) {
  Arena arena;
  const int64_t steps = a.size.steps, batch = a.size.batch, inputs = a.size.inputs, outputs = a.size.outputs;
  const Panels panels(1, outputs);
  const int64_t rows = steps * batch, most = std::min(kSlice<T>, panels.count);
  const Steps all{steps, batch};
  const GradPlace<T> place{a.keep.width};
  T* packed_x = nullptr;
  if (dw != nullptr) {
    packed_x = arena.many<T>(place.total(all));
    pack_columns(x, all, inputs, a.keep, place, packed_x);
  }
  // Of a slice: [steps][panels of it][batch][64]; and as BP reads them.
  float* dlogits = arena.floats(steps * most * batch * kPanel);
  Narrowed<T> narrowed(dlogits, dx == nullptr ? 0 : steps * most * batch * kPanel, arena);
  int64_t slice = 0, width = 0;
  const auto at = [&](int64_t t, int64_t panel) { return (t * width + panel - slice) * batch * kPanel; };

  const auto begin_slice = [&](int64_t first, int64_t count) {
    slice = first;
    width = count;
    const int64_t items = count * steps;
    parallel(items, grain(items, 4, batch * kPanel * kMoveOperations), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t p = first + item / steps, t = item % steps;
        const Classes classes(p, outputs);
        for (int64_t b = 0; b < batch; ++b) {
          const int64_t row = t * batch + b;
          const float* source = exponentials + (p * rows + row) * kPanel;
          float* target = dlogits + at(t, p) + b * kPanel;
          if (a.target[row] < 0) {
            std::fill_n(target, kPanel, 0.0f);
            continue;
          }
          const float factor = dloss[row] * factors[p * rows + row];
          const float common = dloss[row] * a.smoothing / static_cast<float>(outputs);
          for (int64_t j = 0; j < kPanel; ++j) target[j] = source[j] * factor - common;
          std::fill_n(target + classes.valid, kPanel - classes.valid, 0.0f);
          const int64_t place = classes.place(a.target[row]);
          if (place >= 0) target[place] -= dloss[row] * (1.0f - a.smoothing);
        }
        if (dx != nullptr) narrowed.take(at(t, p), batch * kPanel);
      }
    });
    if (dw == nullptr) return;
    const int64_t start = first * kPanel, some = std::min(count * kPanel, outputs - start);
    const PanelsOfStep<float> from_slice = [&](int64_t t, int64_t panel, int64_t, float*) {
      return dlogits + at(t, first + panel);
    };
    weight_grad_all(Panels(1, some), inputs, all, a.keep, packed_x, from_slice, dw + start * inputs,
                    db == nullptr ? nullptr : db + start);
  };

  if (dx != nullptr) {
    const PanelsOfStep<T> of_slice = [&](int64_t t, int64_t panel, int64_t, T*) { return narrowed.data + at(t, panel); };
    input_grad_all({weight, inputs, panels}, all, a.keep, of_slice, dx, begin_slice);
  } else {
    for (int64_t first = 0; first < panels.count; first += most) begin_slice(first, std::min(most, panels.count - first));
  }
}

#define STROP_CROSS_ENTROPY(T)                                                                                        \
  template void linear_cross_entropy<T>(const CrossEntropy&, const float*, const float*, const float*, float*,       \
                                        float*, float*);                                                             \
  template void linear_cross_entropy_grad<T>(const CrossEntropy&, const float*, const float*, const float*,          \
                                             const float*, const float*, float*, float*, float*);
STROP_CROSS_ENTROPY(float)
STROP_CROSS_ENTROPY(Bf16)

}  // namespace strop
