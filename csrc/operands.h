// Checks of the operators' arguments, before any kernel reads them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <vector>

#include "recurrence.h"

namespace strop {

using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

constexpr int64_t kLargest = int64_t{1} << 31;  // index lists are int32

// The memory of the tensors of one call. A result that shares memory with another of them is refused: kernels read
// operands, index lists among them, while they write results.
class Operands {
 public:
  using Shape = std::initializer_list<int64_t>;

  const float* input(const Tensor& tensor, const char* name, Shape shape);
  const int32_t* list(const Tensor& tensor, const char* name, Shape shape);
  const int64_t* sizes(const Tensor& tensor, const char* name, Shape shape);
  float* output(const Tensor& tensor, const char* name, Shape shape);
  int32_t* output_list(const Tensor& tensor, const char* name, Shape shape);

  // Null where there is no tensor.
  const float* input(const Optional& tensor, const char* name, Shape shape) {
    return tensor.has_value() ? input(*tensor, name, shape) : nullptr;
  }
  float* output(const Optional& tensor, const char* name, Shape shape) {
    return tensor.has_value() ? output(*tensor, name, shape) : nullptr;
  }

  // What some cells have and others do not: the tensor must be there exactly where it is `needed`.
  const float* input_if(bool needed, const Optional& tensor, const char* name, Shape shape);
  float* output_if(bool needed, const Optional& tensor, const char* name, Shape shape);

 private:
  struct Memory {
    uintptr_t begin, end;
    bool written;
    const char* name;
  };
  std::vector<Memory> seen_;

  template <typename T>
  T* add(T* data, const Tensor& tensor, const char* name, bool written);
};

// The size of dimension `dim` of a tensor that must have `dims` of them.
int64_t size(const Tensor& tensor, const char* name, int64_t dim, int64_t dims);

// The lists of one mask: sorted, without repetition, inside [0, units).
Keep keep_lists(const Optional& index, const Optional& count, double scale, const char* name, int64_t steps,
                int64_t units, Operands& use, Arena& arena);

// A mask that multiplies every element; not beside index lists.
Mask element_mask(const Optional& mask, const Optional& index, int64_t steps, int64_t batch, int64_t units,
                  Operands& use);

// `rows` rows of a sequence whose first step has `batch` of them: as many in every step, or `batch_sizes` (int64).
Steps steps_of(const Optional& batch_sizes, int64_t rows, int64_t batch, Operands& use, Arena& arena);

Cell cell_of(int64_t number);

}  // namespace strop
