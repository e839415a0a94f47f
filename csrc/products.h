// The three products over all time steps of a sequence, on kept columns only, in panel form.
#pragma once

#include <cstring>
#include <functional>

#include "kernels.h"
#include "runtime.h"

namespace strop {

// The columns that take part in each step's product: `kept(t)` sorted indices at `row(t)`.
struct Keep {
  const int32_t* index = nullptr;
  int64_t stride = 0;              // 0: the same list at every step
  int64_t width = 0;               // the longest list
  const int32_t* count = nullptr;  // null: every list is `width` long
  float scale = 1.0f;

  const int32_t* row(int64_t t) const { return index + t * stride; }
  int64_t kept(int64_t t) const { return count != nullptr ? count[t] : width; }
};

// All `units` columns: the list 0 .. units - 1.
Keep keep_all(int64_t units, Arena& arena);

// How a plain weight [gates * hidden][units] is cut into panels, 16 rows at a time: the first 16 hidden units of every
// gate, then the next 16 of every gate, and so on, so that a cell's pointwise work finds its gates side by side. With
// one gate panel p holds rows 64 p .. 64 p + 63.
struct Panels {
  int64_t gates, hidden, count;

  Panels(int64_t gates, int64_t hidden);
  PanelRows rows(int64_t panel) const;
};

// The rows of a sequence, one step after another: `batch` in every step, or, where `offset` is given, as many as a packed
// sequence has left, never more than the step before.
struct Steps {
  int64_t steps, batch;
  const int64_t* offset = nullptr;  // [steps + 1]: the number of rows before each step

  int64_t at(int64_t t) const { return offset == nullptr ? t * batch : offset[t]; }
  int64_t rows(int64_t t) const { return offset == nullptr ? batch : offset[t + 1] - offset[t]; }
  int64_t total() const { return at(steps); }
};

struct Weight {
  const float* data;  // plain [rows][units]
  int64_t units;
  Panels panels;
};

constexpr int64_t kPackOperations = 16;  // time of moving a float, in operations of a product

// Activations as FP and WG read them: kept columns only, scaled, transposed, packed[step][width][rows of the step].
void pack_columns(const float* x, Steps size, int64_t units, const Keep& keep, float* packed);

// The same of one step, for its rows [first, last) and the columns at places [from, to) of its list: target[i][row],
// where `target` is the place of column `from` and row 0. x is [row][units]; with a `mask` [row][units] that is the factor.
void pack_step(const float* x, int64_t units, const Keep& keep, int64_t t, int64_t from, int64_t to, const float* mask,
               int64_t first, int64_t last, int64_t target_stride, float* target);

// `count` panels of the weight from `first` on, in slices of `width` (1 for FP, kSlice for BP) and a last one of the
// rest, one after another: the slice that begins with panel p is at packed + (p - first) * panel_size(units).
inline int64_t panel_size(int64_t units) { return units * kPanel; }
void pack_weight(const Weight& weight, int64_t first, int64_t count, int64_t width, float* packed);

// FP. `open(t, p, first, scratch)` returns the [rows][64] to add to (scratch or its own memory), `close(t, p, out)`
// takes it away; both are called once for each block of units.
using OpenPanel = std::function<float*(int64_t t, int64_t panel, bool first, float* scratch)>;
using ClosePanel = std::function<void(int64_t t, int64_t panel, const float* out)>;
void forward_all(const Weight& weight, Steps size, const Keep& keep, const float* packed_x, const OpenPanel& open,
                 const ClosePanel& close);

// Gives dy of one step for panels first .. first + count - 1 as [count][rows][64]: memory of its own or scratch.
using PanelsOfStep = std::function<const float*(int64_t t, int64_t first, int64_t count, float* scratch)>;

// BP: dx [total rows][units], zero in dropped columns. `before`, where given, is called once for each slice of panels
// before dy is asked for any of them.
using BeforeSlice = std::function<void(int64_t first, int64_t count)>;
void input_grad_all(const Weight& weight, Steps size, const Keep& keep, const PanelsOfStep& dy, float* dx,
                    const BeforeSlice& before = nullptr);

// WG: plain dw [gates * hidden][units], from packed_x as pack_columns leaves it; and, where `db` is not null, the
// gradient of the bias, while dy is at hand.
void weight_grad_all(const Panels& panels, int64_t units, Steps size, const Keep& keep, const float* packed_x,
                     const PanelsOfStep& dy, float* dw, float* db);

}  // namespace strop
