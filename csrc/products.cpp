#include "products.h"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace strop {
namespace {

constexpr int64_t kPackUnits = 256;      // packing: units in one item of work
constexpr int64_t kItems = 24;           // chunks of work for each thread, so that threads end together,
constexpr int64_t kCutUnits = 16;        // where that does not cut BP into pieces of fewer units
constexpr int64_t kLeastGradUnits = 128; // or WG

// Units whose columns of one panel fill `share` eighths of the L2.
int64_t units_in_l2(int64_t share) { return std::max<int64_t>(kLeastGradUnits, l2_bytes() * share / 8 / (kPanel * 4)); }

// FP: units of a panel packed at once. The rest of the L2 is for x.
int64_t forward_units() { return units_in_l2(5); }

// WG: units accumulated at once.
int64_t grad_units() { return units_in_l2(3); }

struct Range {
  int64_t begin, end;
};

// Positions of a sorted list that fall into units [first, last).
Range within(const int32_t* list, int64_t kept, int64_t first, int64_t last) {
  const auto begin = std::lower_bound(list, list + kept, first);
  const auto end = std::lower_bound(begin, list + kept, last);
  return {begin - list, end - list};
}

}  // namespace

Keep keep_all(int64_t units, Arena& arena) {
  int32_t* list = arena.ints(units);
  for (int64_t i = 0; i < units; ++i) list[i] = static_cast<int32_t>(i);
  return {list, 0, units, nullptr, 1.0f};
}

Panels::Panels(int64_t gates, int64_t hidden)
    : gates(gates), hidden(hidden), count(divide_up(gates * divide_up(hidden, kGroup), 4)) {}

PanelRows Panels::rows(int64_t panel) const {
  PanelRows rows;
  for (int64_t group = 0; group < 4; ++group) {
    const int64_t unit = (4 * panel + group) / gates * kGroup, gate = (4 * panel + group) % gates;
    rows.valid[group] = std::clamp<int64_t>(hidden - unit, 0, kGroup);
    rows.first[group] = rows.valid[group] == 0 ? 0 : gate * hidden + unit;
  }
  return rows;
}

template <typename T, typename Place>
void pack_step(const float* x, int64_t units, const Keep& keep, int64_t t, int64_t from, int64_t to, const float* mask,
               int64_t first, int64_t last, int64_t rows, const Place& place, T* target) {
  const int32_t* list = keep.row(t);
  for (int64_t i = from; i < to; ++i) {
    for (int64_t b = first; b < last; ++b) {
      const int64_t at = b * units + list[i];
      target[place(i, b, rows)] = narrow<T>(mask == nullptr ? keep.scale * x[at] : x[at] * mask[at]);
    }
    if constexpr (std::is_same_v<Place, GradPlace<Bf16>>) {
      if (last == rows && rows % 2 == 1) target[place(i, rows, rows)] = 0;
    }
  }
}

template <typename T, typename Place>
void pack_columns(const float* x, Steps size, int64_t units, const Keep& keep, const Place& place, T* packed) {
  const int64_t operations = keep.width * size.batch * kPackOperations;
  parallel(size.steps, grain(size.steps, 1, operations), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t rows = size.rows(t);
      pack_step(x + size.at(t) * units, units, keep, t, 0, keep.kept(t), nullptr, 0, rows, rows, place,
                packed + place.at(size, t));
    }
  });
}

namespace {

template <typename T>
void pack_weight(const Weight& weight, int64_t first, int64_t count, int64_t width, decltype(ProductKernels<T>::pack) pack,
                 T* packed) {
  const int64_t blocks = divide_up(weight.units, kPackUnits);
  const int64_t operations = std::min(kPackUnits, weight.units) * kPanel * kPackOperations;
  parallel(count * blocks, grain(count * blocks, 4, operations), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t panel = item / blocks, unit = item % blocks * kPackUnits;
      const int64_t before = panel / width * width, stride = std::min(width, count - before) * kPanel;
      T* slice = packed + before * panel_size(weight.units);
      pack(weight.data + unit, weight.units, weight.panels.rows(first + panel), std::min(kPackUnits, weight.units - unit),
           slice + unit * stride + (panel - before) * kPanel, stride);
    }
  });
}

}  // namespace

template <typename T>
void pack_panels(const Weight& weight, int64_t first, int64_t count, T* packed) {
  pack_weight(weight, first, count, 1, products<T>().pack, packed);
}

template <typename T>
void pack_slices(const Weight& weight, int64_t first, int64_t count, int64_t width, T* packed) {
  pack_weight(weight, first, count, width, products<T>().pack_slice, packed);
}

template <typename T>
void forward_all(const Weight& weight, Steps size, const Keep& keep, const T* packed_x, const OpenPanel& open,
                 const ClosePanel& close) {
  Arena arena;
  const int64_t steps = size.steps, batch = size.batch;
  const ForwardPlace<T> place{keep.width};
  const int64_t blocks = divide_up(weight.units, forward_units()), block = divide_up(weight.units, blocks);
  T* panels = arena.many<T>(threads() * block * kPanel);
  float* scratch = arena.floats(threads() * batch * kPanel);
  std::vector<int64_t> packed(static_cast<size_t>(threads()), -1);  // the block that a thread's panel holds
  const int64_t items = weight.panels.count * steps, operations = 2 * keep.width * kPanel * batch;
  parallel(items, grain(items, steps, operations), [&](int64_t thread, int64_t begin, int64_t end) {
    T* panel = panels + thread * block * kPanel;
    for (int64_t item = begin; item < end;) {
      const int64_t p = item / steps, first_step = item % steps;
      const int64_t last_step = std::min(steps, first_step + end - item);
      for (int64_t n = 0; n < blocks; ++n) {
        const int64_t unit = n * block, units = std::min(block, weight.units - unit);
        if (packed[thread] != p * blocks + n) {
          packed[thread] = p * blocks + n;
          products<T>().pack(weight.data + unit, weight.units, weight.panels.rows(p), units, panel, kPanel);
        }
        for (int64_t t = first_step; t < last_step; ++t) {
          const auto [from, to] = within(keep.row(t), keep.kept(t), unit, unit + units);
          float* out = open(t, p, n == 0, scratch + thread * batch * kPanel);
          const int64_t rows = size.rows(t);
          products<T>().forward(packed_x + place.at(size, t), rows, keep.row(t), from, to, panel - unit * kPanel, rows, out,
                                nullptr);
          close(t, p, out);
        }
      }
      item += last_step - first_step;
    }
  });
}

template <typename T>
void input_grad_all(const Weight& weight, Steps size, const Keep& keep, const PanelsOfStep<T>& dy, float* dx,
                    const BeforeSlice& before) {
  Arena arena;
  const int64_t steps = size.steps, batch = size.batch;
  const int64_t units = weight.units, width = keep.width;
  const int64_t slice_panels = std::min(kSlice<T>, weight.panels.count);
  T* slice = arena.many<T>(slice_panels * panel_size(units));
  T* scratch = arena.many<T>(threads() * slice_panels * batch * kPanel);
  float* sums = arena.floats(size.total() * width);
  std::fill_n(sums, size.total() * width, 0.0f);

  // Few steps are cut further, so that threads end together.
  const int64_t cuts = divide_up(kItems * threads(), steps), cut_units = divide_up(divide_up(width, cuts), kCutUnits) * kCutUnits;

  for (int64_t first = 0; first < weight.panels.count; first += slice_panels) {
    const int64_t count = std::min(slice_panels, weight.panels.count - first);
    if (before) before(first, count);
    pack_slices(weight, first, count, count, slice);
    const int64_t operations = 2 * std::min(cut_units, width) * count * kPanel * batch;
    parallel(steps * cuts, grain(steps * cuts, 1, operations), [&](int64_t thread, int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t t = item / cuts, cut = item % cuts;
        const int64_t from = cut * cut_units, to = std::min(keep.kept(t), from + cut_units);
        if (from >= to) continue;
        const T* panels = dy(t, first, count, scratch + thread * slice_panels * batch * kPanel);
        const int64_t rows = size.rows(t);
        products<T>().input_grad(panels, rows * kPanel, rows, slice, count, keep.row(t) + from, to - from,
                                 sums + size.at(t) * width + from, width);
      }
    });
  }

  parallel(steps, grain(steps, 1, keep.width * batch * kPackOperations), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t* list = keep.row(t);
      const int64_t kept = keep.kept(t);
      for (int64_t row = size.at(t); row < size.at(t + 1); ++row) {
        float* target = dx + row * units;
        const float* sum = sums + row * width;
        if (kept < units) std::fill_n(target, units, 0.0f);
        for (int64_t i = 0; i < kept; ++i) target[list[i]] = keep.scale * sum[i];
      }
    }
  });
}

template <typename T>
void weight_grad_all(const Panels& panels, int64_t units, Steps size, const Keep& keep, const T* packed_x,
                     const PanelsOfStep<float>& dy, float* dw, float* db) {
  Arena arena;
  const GradPlace<T> place{keep.width};
  const int64_t steps = size.steps, batch = size.batch;
  const int64_t wanted = divide_up(kItems * threads(), panels.count);
  const int64_t blocks = std::max(divide_up(units, grad_units()), std::min(wanted, divide_up(units, kLeastGradUnits)));
  const int64_t block = divide_up(units, blocks);
  float* grads = arena.floats(threads() * block * kPanel);
  float* scratch = arena.floats(threads() * batch * kPanel);
  const int64_t operations = 2 * steps * divide_up(keep.width, blocks) * kPanel * batch;
  parallel(panels.count * blocks, grain(panels.count * blocks, 1, operations), [&](int64_t thread, int64_t begin, int64_t end) {
    float* grad = grads + thread * block * kPanel;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t p = item / blocks, unit = item % blocks * block;
      const int64_t some = std::min(block, units - unit);
      if (some <= 0) continue;
      std::fill_n(grad, some * kPanel, 0.0f);
      const bool sums = db != nullptr && unit == 0;
      float sum[kPanel] = {};
      for (int64_t t = 0; t < steps; ++t) {
        const auto [from, to] = within(keep.row(t), keep.kept(t), unit, unit + some);
        if (from == to && !sums) continue;
        const float* gradients = dy(t, p, 1, scratch + thread * batch * kPanel);
        const int64_t rows = size.rows(t);
        const int64_t stride = place.stride(rows);
        products<T>().weight_grad(packed_x + place.at(size, t) + from * stride, stride, keep.row(t) + from, to - from,
                                  gradients, rows, grad - unit * kPanel);
        if (sums) kernels().column_sums(gradients, rows, sum);
      }
      const PanelRows rows = panels.rows(p);
      kernels().unpack(grad, rows, some, dw + unit, units);
      for (int64_t group = 0; sums && group < 4; ++group) {
        std::copy_n(sum + group * kGroup, rows.valid[group], db + rows.first[group]);
      }
    }
  });
}

#define STROP_PRODUCTS(T)                                                                                                 \
  template void pack_step(const float*, int64_t, const Keep&, int64_t, int64_t, int64_t, const float*, int64_t, int64_t, \
                          int64_t, const ForwardPlace<T>&, T*);                                                          \
  template void pack_step(const float*, int64_t, const Keep&, int64_t, int64_t, int64_t, const float*, int64_t, int64_t, \
                          int64_t, const GradPlace<T>&, T*);                                                             \
  template void pack_columns(const float*, Steps, int64_t, const Keep&, const ForwardPlace<T>&, T*);                     \
  template void pack_columns(const float*, Steps, int64_t, const Keep&, const GradPlace<T>&, T*);                        \
  template void pack_panels(const Weight&, int64_t, int64_t, T*);                                                        \
  template void pack_slices(const Weight&, int64_t, int64_t, int64_t, T*);                                               \
  template void forward_all(const Weight&, Steps, const Keep&, const T*, const OpenPanel&, const ClosePanel&);           \
  template void input_grad_all(const Weight&, Steps, const Keep&, const PanelsOfStep<T>&, float*, const BeforeSlice&);   \
  template void weight_grad_all(const Panels&, int64_t, Steps, const Keep&, const T*, const PanelsOfStep<float>&,        \
                                float*, float*);
STROP_PRODUCTS(float)
STROP_PRODUCTS(Bf16)

}  // namespace strop
