// The inner kernels, compiled once per instruction set, and the table by which the rest calls them.
//
// A *panel* is 64 output columns of a weight matrix, stored [unit][64]: one kept unit is 256 contiguous bytes. A *slice*
// is some panels side by side, stored [unit][panels][64]: what BP reads of a unit at once is contiguous too, or it
// would touch 48 pages at a time.
#pragma once

#include <cstdint>

namespace strop {

constexpr int64_t kPanel = 64;    // columns of a panel
template <typename T>
constexpr int64_t kSlice = 48 / sizeof(T);  // panels of a slice; those of a tile's 6 units and 4 rows are 30 KB
constexpr int64_t kDotUnits = 12;  // a multiple of the units in any tile of BP
constexpr int64_t kGroup = 16;    // columns of a panel that come from neighbouring rows of the plain weight

// Four groups of a panel within a plain weight [rows][units]: first row and number of rows of each.
struct PanelRows {
  int64_t first[4];
  int64_t valid[4];
};

enum class Cell { lstm, gru, rnn_tanh, rnn_relu };
constexpr int kCells = 4;

inline int64_t gates_of(Cell cell) { return cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1; }

// A cell's step for 16 hidden units, or what is left of them, of some rows. Gates, in torch's order, are [rows] at a
// distance of kPanel; the others [rows][stride], at the first of the units.
struct CellForward {
  int64_t rows, units;
  float* gate[4];             // pre-activations on entry, activations on return
  const float* recurrent[4];  // GRU: what the hidden state adds to them, which the reset gate must see apart
  const float* before;        // LSTM: c of the step before; GRU: h of the step before
  float* state;               // out; LSTM: c; GRU: recurrent[2]
  float* h;                   // out
  int64_t stride;
};

struct CellBackward {
  int64_t rows, units;
  const float* gate[4];  // activations
  const float *before, *state;
  const float* dh;
  float* carry;          // LSTM: dc, which becomes the gradient of c_before. GRU, out: the gradient of h_before but for
                         // the product's share
  float* dgate[4];       // out; zero in lanes without a unit
  float* drecurrent[4];  // out; GRU: the gradients of CellForward::recurrent
  int64_t stride;
};

struct CellKernels {
  void (*forward)(const CellForward&);
  void (*backward)(const CellBackward&);
};

using Bf16 = uint16_t;  // a bfloat16: the upper half of a float

// The kernels of the products, whose operands are packed as T: float, or bfloat16, which halves what is read and
// doubles what is multiplied at once. Sums are floats in both.
template <typename T>
struct ProductKernels {
  // FP: panel[unit][64] = plain rows, transposed, in an order of columns that `forward` knows; columns without a row
  // are zero. BP: the same in their own order. Units are `panel_stride` apart.
  void (*pack)(const float* plain, int64_t plain_stride, const PanelRows& rows, int64_t units, T* panel,
               int64_t panel_stride);
  void (*pack_slice)(const float* plain, int64_t plain_stride, const PanelRows& rows, int64_t units, T* panel,
                     int64_t panel_stride);

  // FP of one step and one panel: out[b][64] += sum_i x(i, b) * panel[keep[i]][64] for i in [from, to) and b < rows.
  // x is as Packed<T>::forward places it, x_stride rows in all, from the first of these rows on. `ahead`, when not
  // null, is a panel whose kept rows will be read next.
  void (*forward)(const T* x, int64_t x_stride, const int32_t* keep, int64_t from, int64_t to, const T* panel,
                  int64_t rows, float* out, const T* ahead);

  // BP of one step and one slice: out[b][i] += sum over its panels of dy[panel][b][64] . slice[keep[i]][panel][64].
  void (*input_grad)(const T* dy, int64_t dy_panel, int64_t rows, const T* slice, int64_t panels, const int32_t* keep,
                     int64_t kept, float* out, int64_t out_stride);

  // WG of one step and one panel: grad[keep[i]][64] += sum_b x[i][b] * dy[b][64]. Bf16: x_stride is even, and an odd
  // last row of x is followed by a zero.
  void (*weight_grad)(const T* x, int64_t x_stride, const int32_t* keep, int64_t kept, const float* dy, int64_t rows,
                      float* grad);

  void (*narrow)(const float* from, int64_t count, T* to);
};

struct Kernels {
  const char* name;

  ProductKernels<float> products;

  // plain rows = panel, transposed.
  void (*unpack)(const float* panel, const PanelRows& rows, int64_t units, float* plain, int64_t plain_stride);

  // sum[64] += sum_b rows of dy[b][64]
  void (*column_sums)(const float* dy, int64_t rows, float* sum);

  // Each row of panel[rows][64] becomes e^(row - largest of the row); `largest` and the `sum` of what it becomes: [rows].
  void (*exponentials)(float* panel, int64_t rows, float* largest, float* sum);

  // out[b][i] += x[b] . w[i] over `length` numbers, for `rows` rows of x and `count` rows of a plain weight.
  void (*plain_dot)(const float* x, int64_t x_stride, int64_t rows, const float* w, int64_t w_stride, int64_t count,
                    int64_t length, float* out, int64_t out_stride);

  const CellKernels* cells;  // by Cell

  // A chain of fused multiply-adds in registers; returns the floating-point operations done.
  double (*fma_chain)(int64_t iterations);
};

// The best table this CPU runs, or the one STROP_ISA names. Throws if STROP_ISA names none or one that the
// CPU lacks.
const Kernels& kernels();

// Those that multiply bfloat16, if the CPU does; else null.
const ProductKernels<Bf16>* bf16_kernels();

template <typename T>
const ProductKernels<T>& products();
template <>
inline const ProductKernels<float>& products<float>() {
  return kernels().products;
}
template <>
inline const ProductKernels<Bf16>& products<Bf16>() {
  return *bf16_kernels();
}

}  // namespace strop
