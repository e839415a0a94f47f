#include "recurrence.h"

#include <algorithm>

#include "spans.h"

namespace strop {
namespace {

constexpr int64_t kBatchTile = 6;   // rows of the batch in one item of the forward step
constexpr int64_t kDotItem = 32;    // units in one item of the backward step's product or of a projection, at most

// The state of the step before: of the first `count` rows in `rows`, of the others, which begin here, in `begin`.
struct Before {
  const float* rows;
  int64_t count;
  const float* begin;

  // Calls f(state, first, last) for the part of [first, last) that each of them holds.
  template <typename F>
  void for_parts(int64_t first, int64_t last, const F& f) const {
    const int64_t cut = std::clamp(count, first, last);
    if (first < cut) f(rows, first, cut);
    if (cut < last) f(begin, cut, last);
  }
};

Before before(const Recurrence& a, int64_t turn, const float* states, int64_t units, const float* begin) {
  if (turn == 0) return {nullptr, 0, begin};
  const int64_t t = a.time(turn), earlier = a.time(turn - 1);
  return {states + a.size.at(earlier) * units, std::min(a.size.rows(t), a.size.rows(earlier)), begin};
}

template <typename Args>
Before before_of_product(const Args& a, int64_t turn) {
  return before(a, turn, a.y, a.outputs, a.h0);
}

// What the cell calls `before`.
template <typename Args>
Before before_of_cell(const Args& a, int64_t turn) {
  return a.cell == Cell::lstm ? before(a, turn, a.states, a.hidden, a.c0) : before_of_product(a, turn);
}

// Writes units [unit, unit + units) of the h `state`, rows [first, last), to where the product of step t reads them.
template <typename T, typename Place>
void pack_units(const Recurrence& a, int64_t t, const float* state, int64_t unit, int64_t units, int64_t first,
                int64_t last, const Place& place, T* packed) {
  if (first >= last) return;
  const int32_t* list = a.recurrent.row(t);
  const int32_t* end = list + a.recurrent.kept(t);
  const int64_t from = std::lower_bound(list, end, unit) - list, to = std::lower_bound(list + from, end, unit + units) - list;
  pack_step(state, a.outputs, a.recurrent, t, from, to, a.mask.at(t), first, last, a.size.rows(t), place, packed);
}

// Units in one item of a product by dot products, each of so many operations: a multiple of what its tiles hold.
int64_t dot_units(int64_t units, int64_t operations) {
  return divide_up(grain(units, kDotItem, operations), kDotUnits) * kDotUnits;
}

template <typename T>
PanelsOfStep<T> panels_of(const Recurrence& a, const T* dgates) {
  const int64_t count = a.panels().count;
  return [size = a.size, count, dgates](int64_t t, int64_t first, int64_t, T*) {
    return dgates + (size.at(t) * count + first * size.rows(t)) * kPanel;
  };
}

void copy_or_zero(const float* from, int64_t count, float* to) {
  if (from != nullptr) {
    std::copy_n(from, count, to);
  } else {
    std::fill_n(to, count, 0.0f);
  }
}

}  // namespace

template <typename T>
void recurrence_forward(const RecurrenceForward& a, const T* packed_w_hh) {
  Arena arena;
  const int64_t hidden = a.hidden, gates = gates_of(a.cell);
  const bool apart = a.cell == Cell::gru;
  const Panels panels = a.panels();
  const Span span(a.cell, hidden);
  const auto gates_at = [&](int64_t t) { return a.gates + a.size.at(t) * panels.count * kPanel; };

  // The reset gate must see b_hh apart.
  float* bias = arena.floats(panels.count * kPanel);
  float* recurrent_bias = arena.floats(panels.count * kPanel);
  for (int64_t p = 0; p < panels.count; ++p) {
    fill_bias(panels.rows(p), a.b_ih, apart ? nullptr : a.b_hh, bias + p * kPanel);
    fill_bias(panels.rows(p), nullptr, a.b_hh, recurrent_bias + p * kPanel);
  }

  // The input's share of every step's pre-activations.
  {
    const ForwardPlace<T> place{a.input.width};
    T* packed_x = arena.many<T>(place.total(a.size));
    pack_columns(a.x, a.size, a.inputs, a.input, place, packed_x);
    const auto open = [&](int64_t t, int64_t p, bool first, float*) {
      float* out = gates_at(t) + p * a.size.rows(t) * kPanel;
      if (first) spread_bias(bias + p * kPanel, a.size.rows(t), out);
      return out;
    };
    forward_all({a.w_ih, a.inputs, panels}, a.size, a.input, packed_x, open, [](int64_t, int64_t, const float*) {});
  }

  const T* weight = packed_w_hh;
  if (weight == nullptr) {
    T* packed = arena.many<T>(panels.count * panel_size(a.outputs));
    pack_panels({a.w_hh, a.outputs, panels}, 0, panels.count, packed);
    weight = packed;
  }

  // What the product of this step reads, and what the next one will.
  const ForwardPlace<T> packing{a.recurrent.width};
  const Steps one{1, a.size.batch};
  T* packed_h[2] = {arena.many<T>(packing.total(one)), arena.many<T>(packing.total(one))};
  pack_units(a, a.time(0), a.h0, 0, a.outputs, 0, a.size.rows(a.time(0)), packing, packed_h[0]);
  // For some units of the h of a turn, rows [first, last), and with the last of them of rows that begin in the next.
  const auto hand_on = [&](int64_t turn, int64_t unit, int64_t units, int64_t first, int64_t last) {
    if (turn + 1 == a.size.steps) return;
    const int64_t t = a.time(turn), later = a.time(turn + 1), batch = a.size.rows(t), rows_later = a.size.rows(later);
    T* packed = packed_h[(turn + 1) % 2];
    pack_units(a, later, a.y + a.size.at(t) * a.outputs, unit, units, first, std::min(last, rows_later), packing, packed);
    if (last == batch) pack_units(a, later, a.h0, unit, units, batch, rows_later, packing, packed);
  };

  float* const of_cell = a.w_hr == nullptr ? a.y : a.unprojected;
  const int64_t projection = 2 * hidden * a.size.batch, projected = dot_units(a.outputs, projection);
  const int64_t spans = span.count();
  float* scratch = apart ? arena.floats(threads() * span.panels * a.size.batch * kPanel) : nullptr;
  for (int64_t turn = 0; turn < a.size.steps; ++turn) {
    const int64_t t = a.time(turn), batch = a.size.rows(t), at = a.size.at(t) * hidden;
    const Before state = before_of_cell(a, turn);
    const int64_t tiles = divide_up(batch, kBatchTile);
    const int64_t operations =
        span.panels * (2 * a.recurrent.kept(t) * kPanel + kCellOperations) * divide_up(batch, tiles);
    parallel(spans * tiles, grain(spans * tiles, tiles, operations), [&](int64_t thread, int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end;) {
        const int64_t first_tile = item % tiles, last_tile = std::min(tiles, first_tile + end - item);
        const int64_t first = batch * first_tile / tiles, last = batch * last_tile / tiles;
        const int64_t panel = item / tiles * span.panels, panels_end = std::min(panels.count, panel + span.panels);
        float* of_span = gates_at(t) + panel * batch * kPanel;
        // [panels of the span][rows][64], from row `first` on
        float* product = apart ? scratch + thread * span.panels * a.size.batch * kPanel : of_span + first * kPanel;
        const int64_t rows = apart ? last - first : batch;
        for (int64_t p = panel; p < panels_end; ++p) {
          float* out = product + (p - panel) * rows * kPanel;
          if (apart) spread_bias(recurrent_bias + p * kPanel, rows, out);
          const T* ahead = p + 1 < panels.count ? weight + (p + 1) * panel_size(a.outputs) : nullptr;
          products<T>().forward(packed_h[turn % 2] + packing(0, first, batch), batch, a.recurrent.row(t), 0,
                                a.recurrent.kept(t), weight + p * panel_size(a.outputs), last - first, out, ahead);
        }
        span.for_units(panel, [&](int64_t unit, int64_t units, int64_t group) {
          state.for_parts(first, last, [&](const float* earlier, int64_t from, int64_t to) {
            const int64_t start = from * hidden + unit;
            CellForward cell{to - from, units, {}, {}, earlier + start,
                             a.states == nullptr ? nullptr : a.states + at + start, of_cell + at + start, hidden};
            for (int64_t gate = 0; gate < gates; ++gate) {
              cell.gate[gate] = of_span + place(group + gate, batch) + from * kPanel;
              if (apart) cell.recurrent[gate] = product + place(group + gate, rows) + (from - first) * kPanel;
            }
            kernels().cells[static_cast<int>(a.cell)].forward(cell);
          });
        });
        if (a.w_hr == nullptr) hand_on(turn, item / tiles * span.units, span.units, first, last);
        item += last_tile - first_tile;
      }
    });
    if (a.w_hr == nullptr) continue;
    float* y = a.y + a.size.at(t) * a.outputs;
    parallel(a.outputs, projected, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t b = 0; b < batch; ++b) std::fill_n(y + b * a.outputs + begin, end - begin, 0.0f);
      kernels().plain_dot(of_cell + at, hidden, batch, a.w_hr + begin * hidden, hidden, end - begin, hidden, y + begin,
                          a.outputs);
      hand_on(turn, begin, end - begin, 0, batch);
    });
  }
}

template <typename T>
void recurrence_backward(const RecurrenceBackward& a) {
  Arena arena;
  const int64_t hidden = a.hidden, outputs = a.outputs, gates = gates_of(a.cell);
  const int64_t state = a.size.batch * hidden, output = a.size.batch * outputs;
  const Panels panels = a.panels();
  const Span span(a.cell, hidden);
  const int64_t row = panels.count * kPanel;  // floats of all gates of a row

  T* weight = arena.many<T>(panels.count * panel_size(outputs));
  pack_slices({a.w_hh, outputs, panels}, 0, panels.count, kSlice<T>, weight);
  Narrowed<T> of_input(a.dgates, a.dx == nullptr && a.drecurrent != nullptr ? 0 : a.size.total() * row, arena);
  Narrowed<T> of_hidden = a.drecurrent == nullptr ? of_input : Narrowed<T>(a.drecurrent, a.size.total() * row, arena);
  // As a single slice it is w_hr transposed, each row of it filled up to whole panels.
  const Panels projection(1, outputs);
  float* projecting = nullptr;
  if (a.w_hr != nullptr) {
    projecting = arena.floats(projection.count * panel_size(hidden));
    pack_slices({a.w_hr, hidden, projection}, 0, projection.count, projection.count, projecting);
  }

  // dh of the step at hand is dy plus what the later step sent back; the latter gathers in dh0. Rows that a packed
  // sequence has no longer, or not yet, keep theirs.
  float* of_cell = arena.floats(state);
  const auto gather = [&](int64_t t, int64_t first, int64_t last, int64_t unit, int64_t units, float* dh) {
    for (int64_t b = first; b < last; ++b) {
      const int64_t start = b * outputs + unit;
      const float* dy = a.dy == nullptr ? nullptr : a.dy + a.size.at(t) * outputs + start;
      for (int64_t i = 0; i < units; ++i) {
        dh[start + i] = a.dh0[start + i] + (dy == nullptr ? 0.0f : dy[i]);
        a.dh0[start + i] = 0.0f;
      }
    }
  };
  const int64_t chunk = dot_units(a.recurrent.width, 2 * row * a.size.batch);
  float* sums = arena.floats(threads() * a.size.batch * chunk);
  copy_or_zero(a.dh, output, a.dh0);
  if (a.dc0 != nullptr) copy_or_zero(a.dc, state, a.dc0);

  const int64_t spans = span.count();
  for (int64_t turn = a.size.steps - 1; turn >= 0; --turn) {
    const int64_t t = a.time(turn), batch = a.size.rows(t), at = a.size.at(t) * hidden;
    const Before earlier = before_of_cell(a, turn);
    float* dh = a.w_hr == nullptr ? of_cell : a.dprojected + a.size.at(t) * outputs;
    int64_t operations = span.panels * kCellOperations * batch;
    if (a.w_hr != nullptr) {
      parallel(batch, grain(batch, 4, outputs * kPackOperations), [&](int64_t, int64_t begin, int64_t end) {
        gather(t, begin, end, 0, outputs, dh);
      });
      operations += 2 * span.units * outputs * batch;
    }
    parallel(spans, grain(spans, 4, operations), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t panel = begin * span.panels; panel < std::min(panels.count, end * span.panels); panel += span.panels) {
        const int64_t of_span = a.size.at(t) * row + panel * batch * kPanel;
        span.for_units(panel, [&](int64_t unit, int64_t units, int64_t group) {
          if (a.w_hr == nullptr) {
            gather(t, 0, batch, unit, units, dh);
          } else {
            for (int64_t b = 0; b < batch; ++b) std::fill_n(of_cell + b * hidden + unit, units, 0.0f);
            const int64_t row_of_unit = projection.count * kPanel;
            kernels().plain_dot(dh, outputs, batch, projecting + unit * row_of_unit, row_of_unit, units, outputs,
                                of_cell + unit, hidden);
          }
          earlier.for_parts(0, batch, [&](const float* states, int64_t from, int64_t to) {
            const int64_t start = from * hidden + unit;
            CellBackward cell{to - from, units, {}, states + start, a.states == nullptr ? nullptr : a.states + at + start,
                              of_cell + start, (a.cell == Cell::lstm ? a.dc0 : a.dh0) + start, {}, {}, hidden};
            for (int64_t gate = 0; gate < gates; ++gate) {
              const int64_t where = of_span + place(group + gate, batch) + from * kPanel;
              cell.gate[gate] = a.gates + where;
              cell.dgate[gate] = a.dgates + where;
              if (a.drecurrent != nullptr) cell.drecurrent[gate] = a.drecurrent + where;
            }
            kernels().cells[static_cast<int>(a.cell)].backward(cell);
          });
        });
        const int64_t of_panels = std::min(span.panels, panels.count - panel) * batch * kPanel;
        span.clear_unused(panel, batch, a.dgates + of_span);
        if (a.dx != nullptr || a.drecurrent == nullptr) of_input.take(of_span, of_panels);
        if (a.drecurrent == nullptr) continue;
        span.clear_unused(panel, batch, a.drecurrent + of_span);
        of_hidden.take(of_span, of_panels);
      }
    });

    const int32_t* list = a.recurrent.row(t);
    const float* mask = a.mask.at(t);
    const T* dgates = of_hidden.data + a.size.at(t) * row;
    parallel(a.recurrent.kept(t), chunk, [&](int64_t thread, int64_t begin, int64_t end) {
      const int64_t kept = end - begin;
      float* sum = sums + thread * a.size.batch * chunk;
      std::fill_n(sum, batch * kept, 0.0f);
      for (int64_t p = 0; p < panels.count; p += kSlice<T>) {
        products<T>().input_grad(dgates + p * batch * kPanel, batch * kPanel, batch, weight + p * panel_size(outputs),
                                 std::min(kSlice<T>, panels.count - p), list + begin, kept, sum, kept);
      }
      for (int64_t b = 0; b < batch; ++b) {
        for (int64_t i = 0; i < kept; ++i) {
          const int64_t to = b * outputs + list[begin + i];
          a.dh0[to] += sum[b * kept + i] * (mask == nullptr ? a.recurrent.scale : mask[to]);
        }
      }
    });
  }

  if (a.dx != nullptr) {
    input_grad_all({a.w_ih, a.inputs, panels}, a.size, a.input, panels_of<T>(a, of_input.data), a.dx);
  }
}

template <typename T>
void recurrence_weight_grad(const RecurrenceWeightGrad& a) {
  Arena arena;
  const Panels panels = a.panels();
  const GradPlace<T> input{a.input.width}, place{a.recurrent.width};
  T* packed = arena.many<T>(std::max(input.total(a.size), place.total(a.size)));
  pack_columns(a.x, a.size, a.inputs, a.input, input, packed);
  weight_grad_all(panels, a.inputs, a.size, a.input, packed, panels_of<float>(a, a.dgates), a.dw_ih, a.db_ih);

  const int64_t operations = a.size.batch * place.width * kPackOperations;
  parallel(a.size.steps, grain(a.size.steps, 1, operations), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t turn = begin; turn < end; ++turn) {
      const int64_t t = a.time(turn);
      before_of_product(a, turn).for_parts(0, a.size.rows(t), [&](const float* h, int64_t first, int64_t last) {
        pack_units(a, t, h, 0, a.outputs, first, last, place, packed + place.at(a.size, t));
      });
    }
  });
  weight_grad_all(panels, a.outputs, a.size, a.recurrent, packed, panels_of<float>(a, a.recurrent_gradients()), a.dw_hh,
                  a.db_hh);
}

template void recurrence_forward(const RecurrenceForward&, const float*);
template void recurrence_forward(const RecurrenceForward&, const Bf16*);
template void recurrence_backward<float>(const RecurrenceBackward&);
template void recurrence_backward<Bf16>(const RecurrenceBackward&);
template void recurrence_weight_grad<float>(const RecurrenceWeightGrad&);
template void recurrence_weight_grad<Bf16>(const RecurrenceWeightGrad&);

}  // namespace strop
