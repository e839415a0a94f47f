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

// How a plain weight [rows][units] is cut into panels. Gates: panel p holds units 16 p .. 16 p + 15 of each of
// four gates, so that a cell's pointwise work needs one panel only. Plain: panel p holds rows 64 p .. 64 p + 63.
struct Panels {
  int64_t count;
  // Row of (panel, group, lane) = group * group_stride + panel * panel_stride + lane.
  int64_t group_stride, panel_stride;
  // It exists where group * limit_stride + panel * panel_stride + lane < limit.
  int64_t limit_stride, limit;

  static Panels gates(int64_t hidden);
  static Panels plain(int64_t rows);
  PanelRows rows(int64_t panel) const;
};

struct Weight {
  const float* data;  // plain [rows][units]
  int64_t units;
  Panels panels;
};

// packed[t][i][b] = factor * x[t][b][keep(t)[i]] (* mask[t][b][keep(t)[i]]), with `factor` the list's scale:
// kept columns of the activations, transposed, scaled and dense, as FP and WG read them. [steps][width][batch].
void pack_columns(const float* x, int64_t batch, int64_t units, const Keep& keep, const float* mask,
                  int64_t mask_stride, int64_t steps, float* packed);

// `count` panels of the weight from `first` on, in slices of `width` (1 for FP, kSlice for BP) and a last one of the
// rest, one after another: the slice that begins with panel p is at packed + (p - first) * panel_size(units).
inline int64_t panel_size(int64_t units) { return units * kPanel; }
void pack_weight(const Weight& weight, int64_t first, int64_t count, int64_t width, float* packed);

struct Steps {
  int64_t steps, batch;
};

// FP. `open(t, p, first, scratch)` returns the [batch][64] to add to (scratch or its own memory), `close(t, p, out)`
// takes it away; both are called once for each block of units.
using OpenPanel = std::function<float*(int64_t t, int64_t panel, bool first, float* scratch)>;
using ClosePanel = std::function<void(int64_t t, int64_t panel, const float* out)>;
void forward_all(const Weight& weight, Steps size, const Keep& keep, const float* packed_x, const OpenPanel& open,
                 const ClosePanel& close);

// Gives dy of one step for panels first .. first + count - 1 as [count][batch][64]: memory of its own or scratch.
using PanelsOfStep = std::function<const float*(int64_t t, int64_t first, int64_t count, float* scratch)>;

// BP: dx [steps][batch][units], zero in dropped columns.
void input_grad_all(const Weight& weight, Steps size, const Keep& keep, const PanelsOfStep& dy, float* dx);

// WG: plain dw [rows][units], from packed_x [steps][width][batch]; and, where `db` is not null, the gradient of the bias
// [rows], while dy is at hand.
void weight_grad_all(const Panels& panels, int64_t units, Steps size, const Keep& keep, const float* packed_x,
                     const PanelsOfStep& dy, float* dw, float* db);

}  // namespace strop
