// Where a cell's gates are in panels. A *span* is the least number of adjacent panels with all gates of its units: one
// panel for 4 gates (16 units) or 1 (64), three for 3 (64 units).
#pragma once

#include <algorithm>

#include "products.h"

namespace strop {

constexpr int64_t kCellOperations = 8'000;  // time of a panel's gates of one row, in operations of a product

// Where the group of 16 columns is in an array [panels][rows][64] that begins with its span.
inline int64_t place(int64_t group, int64_t rows) { return group / 4 * rows * kPanel + group % 4 * kGroup; }

struct Span {
  int64_t gates, hidden;
  int64_t panels, units;  // of a whole span

  Span(Cell cell, int64_t hidden)
      : gates(gates_of(cell)), hidden(hidden), panels(gates == 3 ? 3 : 1), units(panels * kPanel / gates) {}

  int64_t count() const { return divide_up(Panels(gates, hidden).count, panels); }

  // Calls f(unit, units, group) for each 16 units of the span that begins with `panel`, or what is left of them; their
  // gates are the groups from `group` on, counted from the beginning of the span.
  template <typename F>
  void for_units(int64_t panel, const F& f) const {
    const int64_t first = panel / panels * units, last = std::min(hidden, first + units);
    for (int64_t unit = first; unit < last; unit += kGroup) {
      f(unit, std::min(kGroup, last - unit), (unit - first) / kGroup * gates);
    }
  }

  // Zeros in the groups that no unit has: BP sums over whole panels.
  void clear_unused(int64_t panel, int64_t rows, float* dgates) const {
    const int64_t used = divide_up(std::min(hidden - panel / panels * units, units), kGroup) * gates;
    const int64_t all = std::min(Panels(gates, hidden).count - panel, panels) * 4;
    for (int64_t group = used; group < all; ++group) {
      for (int64_t b = 0; b < rows; ++b) std::fill_n(dgates + place(group, rows) + b * kPanel, kGroup, 0.0f);
    }
  }
};

// The sum of two biases for a panel's columns; either may be null.
inline void fill_bias(const PanelRows& rows, const float* b_ih, const float* b_hh, float* bias) {
  std::fill_n(bias, kPanel, 0.0f);
  for (int64_t group = 0; group < 4; ++group) {
    for (int64_t lane = 0; lane < rows.valid[group]; ++lane) {
      float& sum = bias[group * kGroup + lane];
      if (b_ih != nullptr) sum += b_ih[rows.first[group] + lane];
      if (b_hh != nullptr) sum += b_hh[rows.first[group] + lane];
    }
  }
}

// The same bias in each of `rows` rows of a panel.
inline void spread_bias(const float* bias, int64_t rows, float* panel) {
  for (int64_t b = 0; b < rows; ++b) std::copy_n(bias, kPanel, panel + b * kPanel);
}

}  // namespace strop
