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

// A float as T, rounded to the nearest.
template <typename T>
inline T narrow(float x) {
  return x;
}
template <>
inline Bf16 narrow<Bf16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  return static_cast<Bf16>((x == x ? rounded : bits | 0x00400000) >> 16);
}

constexpr int64_t kPackOperations = 16;  // time of moving a float, in operations of a product

// Where FP and WG find the activations of each step: kept columns only, scaled. As floats both read
// [step][width][rows of the step]. Of bfloat16 FP reads pairs of columns, [step][width / 2][rows][2], and WG an even number
// of rows, [step][width][rows].
template <typename T>
struct ForwardPlace {
  int64_t width;
  int64_t at(Steps size, int64_t t) const { return size.at(t) * width; }
  int64_t total(Steps size) const { return size.total() * width; }
  int64_t stride(int64_t rows) const { return rows; }
  int64_t operator()(int64_t i, int64_t b, int64_t rows) const { return i * rows + b; }
};
template <typename T>
struct GradPlace : ForwardPlace<T> {};

template <>
struct ForwardPlace<Bf16> {
  int64_t width;
  int64_t even() const { return divide_up(width, 2) * 2; }
  int64_t at(Steps size, int64_t t) const { return size.at(t) * even(); }
  int64_t total(Steps size) const { return size.total() * even(); }
  int64_t operator()(int64_t i, int64_t b, int64_t rows) const { return (i / 2 * rows + b) * 2 + i % 2; }
};
template <>
struct GradPlace<Bf16> {
  int64_t width;
  int64_t at(Steps size, int64_t t) const { return (size.at(t) + t) * width; }
  int64_t total(Steps size) const { return (size.total() + size.steps) * width; }
  int64_t stride(int64_t rows) const { return divide_up(rows, 2) * 2; }
  int64_t operator()(int64_t i, int64_t b, int64_t rows) const { return i * stride(rows) + b; }
};

// Columns at places [from, to) of step t's list, of the rows [first, last) out of `rows`, to where `place` says from
// `target` on. x is [row][units]; with a `mask` [row][units] that is the factor.
template <typename T, typename Place>
void pack_step(const float* x, int64_t units, const Keep& keep, int64_t t, int64_t from, int64_t to, const float* mask,
               int64_t first, int64_t last, int64_t rows, const Place& place, T* target);

// All columns of all steps.
template <typename T, typename Place>
void pack_columns(const float* x, Steps size, int64_t units, const Keep& keep, const Place& place, T* packed);

// `count` panels of the weight from `first` on, as FP reads them.
inline int64_t panel_size(int64_t units) { return units * kPanel; }
template <typename T>
void pack_panels(const Weight& weight, int64_t first, int64_t count, T* packed);

// The same as BP reads them, in slices of `width` and a last one of the rest, one after another: the slice that begins
// with panel p is at packed + (p - first) * panel_size(units).
template <typename T>
void pack_slices(const Weight& weight, int64_t first, int64_t count, int64_t width, T* packed);

// `count` gradients as BP reads them: themselves, or rounded, for which the ranges that are made are taken.
template <typename T>
struct Narrowed;
template <>
struct Narrowed<float> {
  const float* data;
  Narrowed(const float* gradients, int64_t, Arena&) : data(gradients) {}
  void take(int64_t, int64_t) {}
};
template <>
struct Narrowed<Bf16> {
  const float* wide;
  Bf16* data;
  Narrowed(const float* gradients, int64_t count, Arena& arena) : wide(gradients), data(arena.many<Bf16>(count)) {}
  void take(int64_t at, int64_t count) { products<Bf16>().narrow(wide + at, count, data + at); }
};

// FP. `open(t, p, first, scratch)` returns the [rows][64] to add to (scratch or its own memory), `close(t, p, out)`
// takes it away; both are called once for each block of units.
using OpenPanel = std::function<float*(int64_t t, int64_t panel, bool first, float* scratch)>;
using ClosePanel = std::function<void(int64_t t, int64_t panel, const float* out)>;
template <typename T>
void forward_all(const Weight& weight, Steps size, const Keep& keep, const T* packed_x, const OpenPanel& open,
                 const ClosePanel& close);

// Gives dy of one step for panels first .. first + count - 1 as [count][rows][64]: memory of its own or scratch.
template <typename T>
using PanelsOfStep = std::function<const T*(int64_t t, int64_t first, int64_t count, T* scratch)>;

// BP: dx [total rows][units], zero in dropped columns. `before`, where given, is called once for each slice of panels
// before dy is asked for any of them.
using BeforeSlice = std::function<void(int64_t first, int64_t count)>;
template <typename T>
void input_grad_all(const Weight& weight, Steps size, const Keep& keep, const PanelsOfStep<T>& dy, float* dx,
                    const BeforeSlice& before = nullptr);

// WG: plain dw [gates * hidden][units], from packed_x as pack_columns leaves it in GradPlace; and, where `db` is not null,
// the gradient of the bias, while dy is at hand.
template <typename T>
void weight_grad_all(const Panels& panels, int64_t units, Steps size, const Keep& keep, const T* packed_x,
                     const PanelsOfStep<float>& dy, float* dw, float* db);

}  // namespace strop
