#include "operands.h"

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <string>

namespace strop {
namespace {

using torch::headeronly::ScalarType;

std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(tensor.size(i));
  return text + "]";
}

void check_tensor(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape, ScalarType type) {
  STD_TORCH_CHECK(tensor.defined(), name, " must be a tensor, not None");
  STD_TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU");
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, " must be ",
                  type == ScalarType::Float ? "float32" : type == ScalarType::Int ? "int32" : "int64");
  bool same = tensor.dim() == static_cast<int64_t>(shape.size());
  std::string wanted = "[";
  int64_t i = 0;
  for (const int64_t size : shape) {
    same = same && tensor.size(i) == size;
    wanted += (i > 0 ? ", " : "") + std::to_string(size);
    ++i;
  }
  STD_TORCH_CHECK(same, name, " must have shape ", wanted, "], not ", shape_of(tensor));
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

}  // namespace

template <typename T>
T* Operands::add(T* data, const Tensor& tensor, const char* name, bool written) {
  const int64_t bytes = tensor.numel() * static_cast<int64_t>(sizeof(T));
  if (bytes == 0) return data;
  int64_t stored = 0, offset = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &stored));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(tensor.get(), &offset));
  STD_TORCH_CHECK(data != nullptr && offset * static_cast<int64_t>(sizeof(T)) + bytes <= stored, name,
                  " needs ", bytes, " bytes of memory, its storage has ", stored);
  const auto begin = reinterpret_cast<uintptr_t>(data);
  STD_TORCH_CHECK(begin % alignof(T) == 0, name, " must be aligned to ", alignof(T), " bytes");
  const Memory memory{begin, begin + static_cast<uintptr_t>(bytes), written, name};
  for (const Memory& other : seen_) {
    STD_TORCH_CHECK(!(written || other.written) || memory.end <= other.begin || other.end <= memory.begin, name,
                    " must not share memory with ", other.name);
  }
  seen_.push_back(memory);
  return data;
}

const float* Operands::input(const Tensor& tensor, const char* name, Shape shape) {
  check_tensor(tensor, name, shape, ScalarType::Float);
  return add(static_cast<const float*>(tensor.const_data_ptr()), tensor, name, false);
}

const int32_t* Operands::list(const Tensor& tensor, const char* name, Shape shape) {
  check_tensor(tensor, name, shape, ScalarType::Int);
  return add(static_cast<const int32_t*>(tensor.const_data_ptr()), tensor, name, false);
}

const int64_t* Operands::sizes(const Tensor& tensor, const char* name, Shape shape) {
  check_tensor(tensor, name, shape, ScalarType::Long);
  return add(static_cast<const int64_t*>(tensor.const_data_ptr()), tensor, name, false);
}

float* Operands::output(const Tensor& tensor, const char* name, Shape shape) {
  check_tensor(tensor, name, shape, ScalarType::Float);
  auto* data = add(static_cast<float*>(tensor.mutable_data_ptr()), tensor, name, true);
  advise_huge(data, static_cast<size_t>(tensor.numel()) * sizeof(float));
  return data;
}

int32_t* Operands::output_list(const Tensor& tensor, const char* name, Shape shape) {
  check_tensor(tensor, name, shape, ScalarType::Int);
  return add(static_cast<int32_t*>(tensor.mutable_data_ptr()), tensor, name, true);
}

const float* Operands::input_if(bool needed, const Optional& tensor, const char* name, Shape shape) {
  STD_TORCH_CHECK(needed == tensor.has_value(), name, needed ? " must be given for this cell" : " must be None for this cell");
  return input(tensor, name, shape);
}

float* Operands::output_if(bool needed, const Optional& tensor, const char* name, Shape shape) {
  STD_TORCH_CHECK(needed == tensor.has_value(), name, needed ? " must be given for this cell" : " must be None for this cell");
  return output(tensor, name, shape);
}

int64_t size(const Tensor& tensor, const char* name, int64_t dim, int64_t dims) {
  STD_TORCH_CHECK(tensor.defined(), name, " must be a tensor, not None");
  STD_TORCH_CHECK(tensor.dim() == dims, name, " must have ", dims, " dimensions, not shape ", shape_of(tensor));
  const int64_t value = tensor.size(dim);
  STD_TORCH_CHECK(value > 0 && value < kLargest, name, " must have 1 to 2^31 - 1 elements in dimension ", dim,
                  ", not ", value);
  return value;
}

// The lists of one mask: sorted, without repetition, inside [0, units).
Keep keep_lists(const Optional& index, const Optional& count, double scale, const char* name, int64_t steps,
                int64_t units, Operands& use, Arena& arena) {
  if (!index.has_value()) {
    STD_TORCH_CHECK(!count.has_value(), name, ": a count needs its index lists");
    return keep_all(units, arena);
  }
  STD_TORCH_CHECK(index->dim() == 2 && index->size(1) <= units, name, ": index must have shape [", steps,
                  ", at most ", units, "], not ", shape_of(*index));
  STD_TORCH_CHECK(std::abs(scale) <= std::numeric_limits<float>::max(), name,
                  ": scale must be finite in float32, not ", scale);
  Keep keep;
  keep.index = use.list(*index, name, {steps, index->size(1)});
  keep.width = keep.stride = index->size(1);
  keep.scale = static_cast<float>(scale);
  if (count.has_value()) keep.count = use.list(*count, name, {steps});
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t kept = keep.kept(t);
    STD_TORCH_CHECK(kept >= 0 && kept <= keep.width, name, ": count of step ", t, " must be in [0, ", keep.width,
                    "], not ", kept);
    int64_t before = -1;
    for (int64_t i = 0; i < kept; ++i) {
      const int64_t unit = keep.row(t)[i];
      STD_TORCH_CHECK(unit > before && unit < units, name,
                      ": index lists must be sorted, without repetition and in [0, ", units, "): step ", t, " has ", unit,
                      " after ", before);
      before = unit;
    }
  }
  return keep;
}

Mask element_mask(const Optional& mask, const Optional& index, int64_t steps, int64_t batch, int64_t units,
                  Operands& use) {
  if (!mask.has_value()) return {};
  STD_TORCH_CHECK(!index.has_value(), "recurrent mask: give either index lists or an element mask, not both");
  const int64_t draws = size(*mask, "recurrent mask", 0, 3);
  STD_TORCH_CHECK(draws == 1 || draws == steps, "recurrent mask must have 1 or ", steps, " steps, not ", draws);
  return {use.input(mask, "recurrent mask", {draws, batch, units}), draws == 1 ? 0 : batch * units};
}

Steps steps_of(const Optional& batch_sizes, int64_t rows, int64_t batch, Operands& use, Arena& arena) {
  if (!batch_sizes.has_value()) {
    STD_TORCH_CHECK(rows % batch == 0, "x must have a multiple of ", batch, " rows, not ", rows);
    return {rows / batch, batch};
  }
  const int64_t steps = size(*batch_sizes, "batch_sizes", 0, 1);
  const int64_t* sizes = use.sizes(*batch_sizes, "batch_sizes", {steps});
  int64_t* offset = arena.longs(steps + 1);
  offset[0] = 0;
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t most = t == 0 ? batch : sizes[t - 1];
    STD_TORCH_CHECK(sizes[t] > 0 && sizes[t] <= most, "batch_sizes must be positive and never grow from ", batch,
                    ": step ", t, " has ", sizes[t], " after ", most);
    offset[t + 1] = offset[t] + sizes[t];
  }
  STD_TORCH_CHECK(sizes[0] == batch && offset[steps] == rows, "batch_sizes must begin with ", batch, " and sum to ", rows,
                  " rows, not begin with ", sizes[0], " and sum to ", offset[steps]);
  return {steps, batch, offset};
}

Cell cell_of(int64_t number) {
  STD_TORCH_CHECK(number >= 0 && number < kCells, "cell must be in [0, ", kCells, "), not ", number);
  return static_cast<Cell>(number);
}

}  // namespace strop
