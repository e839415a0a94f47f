#include "lstm.h"

#include <algorithm>

namespace strop {
namespace {

constexpr int64_t kBatchTile = 6;  // rows of the batch in one item of the forward step
constexpr int64_t kGradUnits = 32;  // units in one item of the backward step, at most
constexpr int64_t kCellOperations = 8'000;  // time of 16 units of one row of a cell, in operations of a product

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Writes rows [first, last) of h's units [unit, unit + units) to where the next step's product reads them.
void pack_hidden(const float* h, int64_t hidden, const Keep& keep, int64_t t, const float* mask, int64_t unit,
                 int64_t units, int64_t first, int64_t last, int64_t batch, float* packed) {
  const int32_t* list = keep.row(t);
  const int32_t* end = list + keep.kept(t);
  for (const int32_t* at = std::lower_bound(list, end, unit); at != end && *at < unit + units; ++at) {
    float* row = packed + (at - list) * batch;
    for (int64_t b = first; b < last; ++b) {
      const int64_t from = b * hidden + *at;
      row[b] = mask == nullptr ? keep.scale * h[from] : h[from] * mask[from];
    }
  }
}

// Units in one item of the backward step's product: a multiple of what its tiles hold.
int64_t grad_units(int64_t kept, int64_t operations) {
  return divide_up(grain(kept, kGradUnits, operations), kDotUnits) * kDotUnits;
}

}  // namespace

void lstm_forward(const LstmForward& a, const float* packed_w_hh) {
  Arena arena;
  const int64_t steps = a.size.steps, batch = a.size.batch, inputs = a.size.inputs, hidden = a.size.hidden;
  const Panels panels = Panels::gates(hidden);
  const int64_t gates_of_step = panels.count * batch * kPanel;

  float* bias = arena.floats(panels.count * kPanel);
  std::fill_n(bias, panels.count * kPanel, 0.0f);
  for (int64_t p = 0; p < panels.count; ++p) {
    const PanelRows rows = panels.rows(p);
    for (int64_t group = 0; group < 4; ++group) {
      for (int64_t lane = 0; lane < rows.valid[group]; ++lane) {
        float& sum = bias[p * kPanel + group * kGroup + lane];
        if (a.b_ih != nullptr) sum += a.b_ih[rows.first[group] + lane];
        if (a.b_hh != nullptr) sum += a.b_hh[rows.first[group] + lane];
      }
    }
  }

  // The input's share of every step's pre-activations.
  {
    float* packed_x = arena.floats(steps * a.input.width * batch);
    pack_columns(a.x, batch, inputs, a.input, nullptr, 0, steps, packed_x);
    const auto open = [&](int64_t t, int64_t p, bool first, float*) {
      float* out = a.gates + t * gates_of_step + p * batch * kPanel;
      if (first) {
        for (int64_t b = 0; b < batch; ++b) std::copy_n(bias + p * kPanel, kPanel, out + b * kPanel);
      }
      return out;
    };
    forward_all({a.w_ih, inputs, panels}, {steps, batch}, a.input, packed_x, open,
                [](int64_t, int64_t, const float*) {});
  }

  const float* weight = packed_w_hh;
  if (weight == nullptr) {
    float* packed = arena.floats(panels.count * panel_size(hidden));
    pack_weight({a.w_hh, hidden, panels}, 0, panels.count, 1, packed);
    weight = packed;
  }

  // What the product of this step reads, and what the next one will.
  float* packed_h[2] = {arena.floats(a.recurrent.width * batch), arena.floats(a.recurrent.width * batch)};
  const auto mask_of = [&](int64_t t) { return a.recurrent_mask == nullptr ? nullptr : a.recurrent_mask + t * a.mask_stride; };
  pack_hidden(a.h0, hidden, a.recurrent, 0, mask_of(0), 0, hidden, 0, batch, batch, packed_h[0]);

  const int64_t tiles = divide_up(batch, kBatchTile);
  for (int64_t t = 0; t < steps; ++t) {
    const float* c_before = t == 0 ? a.c0 : a.cells + (t - 1) * batch * hidden;
    float* cells = a.cells + t * batch * hidden;
    float* h = a.y + t * batch * hidden;
    const int64_t operations = (2 * a.recurrent.kept(t) * kPanel + kCellOperations) * divide_up(batch, tiles);
    parallel(panels.count * tiles, grain(panels.count * tiles, tiles, operations), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end;) {
        const int64_t p = item / tiles, first_tile = item % tiles;
        const int64_t last_tile = std::min(tiles, first_tile + end - item);
        const int64_t first = batch * first_tile / tiles, last = batch * last_tile / tiles;
        const int64_t unit = p * kGroup, units = std::min(kGroup, hidden - unit);
        float* gates = a.gates + t * gates_of_step + (p * batch + first) * kPanel;
        const float* ahead = p + 1 < panels.count ? weight + (p + 1) * panel_size(hidden) : nullptr;
        kernels().forward(packed_h[t % 2] + first, batch, a.recurrent.row(t), a.recurrent.kept(t),
                          weight + p * panel_size(hidden), last - first, gates, ahead);
        const int64_t at = first * hidden + unit;
        kernels().lstm_forward(gates, last - first, units, c_before + at, cells + at, h + at, hidden);
        if (t + 1 < steps) {
          pack_hidden(h, hidden, a.recurrent, t + 1, mask_of(t + 1), unit, units, first, last, batch,
                      packed_h[(t + 1) % 2]);
        }
        item += last_tile - first_tile;
      }
    });
  }
}

void lstm_backward(const LstmBackward& a) {
  Arena arena;
  const int64_t steps = a.size.steps, batch = a.size.batch, inputs = a.size.inputs, hidden = a.size.hidden;
  const Panels panels = Panels::gates(hidden);
  const int64_t gates_of_step = panels.count * batch * kPanel, state = batch * hidden;

  float* weight = arena.floats(panels.count * panel_size(hidden));
  pack_weight({a.w_hh, hidden, panels}, 0, panels.count, kSlice, weight);

  // dh of the step at hand is dy plus what the next step sent back; the latter gathers in dh0.
  float* dh = arena.floats(state);
  const int64_t chunk = grad_units(a.recurrent.width, 2 * panels.count * kPanel * batch);
  float* sums = arena.floats(threads() * batch * chunk);
  if (a.dh != nullptr) {
    std::copy_n(a.dh, state, a.dh0);
  } else {
    std::fill_n(a.dh0, state, 0.0f);
  }
  if (a.dc != nullptr) {
    std::copy_n(a.dc, state, a.dc0);
  } else {
    std::fill_n(a.dc0, state, 0.0f);
  }

  for (int64_t t = steps - 1; t >= 0; --t) {
    const float* c_before = t == 0 ? a.c0 : a.cells + (t - 1) * state;
    float* dgates = a.dgates + t * gates_of_step;
    parallel(panels.count, grain(panels.count, 4, kCellOperations * batch), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t unit = p * kGroup, units = std::min(kGroup, hidden - unit);
        for (int64_t b = 0; b < batch; ++b) {
          const int64_t at = b * hidden + unit;
          const float* dy = a.dy == nullptr ? nullptr : a.dy + t * state + at;
          for (int64_t i = 0; i < units; ++i) {
            dh[at + i] = a.dh0[at + i] + (dy == nullptr ? 0.0f : dy[i]);
            a.dh0[at + i] = 0.0f;
          }
        }
        kernels().lstm_backward(a.gates + t * gates_of_step + p * batch * kPanel, batch, units, c_before + unit,
                                a.cells + t * state + unit, dh + unit, a.dc0 + unit, hidden,
                                dgates + p * batch * kPanel);
      }
    });

    const int32_t* list = a.recurrent.row(t);
    const float* mask = a.recurrent_mask == nullptr ? nullptr : a.recurrent_mask + t * a.mask_stride;
    parallel(a.recurrent.kept(t), chunk, [&](int64_t thread, int64_t begin, int64_t end) {
      const int64_t kept = end - begin;
      float* sum = sums + thread * batch * chunk;
      std::fill_n(sum, batch * kept, 0.0f);
      for (int64_t p = 0; p < panels.count; p += kSlice) {
        kernels().input_grad(dgates + p * batch * kPanel, batch * kPanel, batch, weight + p * panel_size(hidden),
                             std::min(kSlice, panels.count - p), list + begin, kept, sum, kept);
      }
      for (int64_t b = 0; b < batch; ++b) {
        for (int64_t i = 0; i < kept; ++i) {
          const int64_t at = b * hidden + list[begin + i];
          a.dh0[at] = sum[b * kept + i] * (mask == nullptr ? a.recurrent.scale : mask[at]);
        }
      }
    });
  }

  if (a.dx != nullptr) {
    const auto dgates_of = [&](int64_t t, int64_t first, int64_t, float*) {
      return a.dgates + t * gates_of_step + first * batch * kPanel;
    };
    input_grad_all({a.w_ih, inputs, panels}, {steps, batch}, a.input, dgates_of, a.dx);
  }
}

void lstm_weight_grad(const LstmWeightGrad& a) {
  Arena arena;
  const int64_t steps = a.size.steps, batch = a.size.batch, inputs = a.size.inputs, hidden = a.size.hidden;
  const Panels panels = Panels::gates(hidden);
  const int64_t gates_of_step = panels.count * batch * kPanel;
  const auto dgates_of = [&](int64_t t, int64_t first, int64_t, float*) {
    return a.dgates + t * gates_of_step + first * batch * kPanel;
  };

  const int64_t width = a.recurrent.width;
  float* packed = arena.floats(steps * batch * std::max(a.input.width, width));
  pack_columns(a.x, batch, inputs, a.input, nullptr, 0, steps, packed);
  weight_grad_all(panels, inputs, {steps, batch}, a.input, packed, dgates_of, a.dw_ih, a.db);

  // The recurrent operand of step t is h of step t - 1.
  Keep later = a.recurrent;
  later.index += later.stride;
  if (later.count != nullptr) ++later.count;
  const float* later_mask = a.recurrent_mask == nullptr ? nullptr : a.recurrent_mask + a.mask_stride;
  pack_columns(a.h0, batch, hidden, a.recurrent, a.recurrent_mask, 0, 1, packed);
  pack_columns(a.y, batch, hidden, later, later_mask, a.mask_stride, steps - 1, packed + width * batch);
  weight_grad_all(panels, hidden, {steps, batch}, a.recurrent, packed, dgates_of, a.dw_hh, nullptr);
}

}  // namespace strop
