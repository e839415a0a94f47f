#include <cstdlib>
#include <string>
#include <string_view>

#include <torch/headeronly/util/Exception.h>

#include "kernels.h"

namespace strop {

namespace portable {
extern const Kernels table;
}
#ifdef STROP_X86
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
extern const ProductKernels<Bf16> bf16;
}
#endif

namespace {

const Kernels* supported(std::string_view name) {
#ifdef STROP_X86
  if (name == "avx512") {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("fma")
               ? &avx512::table
               : nullptr;
  }
  if (name == "avx2") {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2::table : nullptr;
  }
#endif
  return name == "portable" ? &portable::table : nullptr;
}

const Kernels& choose() {
  if (const char* wanted = std::getenv("STROP_ISA"); wanted != nullptr && *wanted != '\0') {
    const Kernels* table = supported(wanted);
    std::string others;
    for (const char* name : {"avx512", "avx2", "portable"}) {
      if (supported(name) != nullptr) others += (others.empty() ? "" : ", ") + std::string(name);
    }
    STD_TORCH_CHECK(table != nullptr, "STROP_ISA=", wanted, " is not available on this CPU; unset it, or use one of: ",
                    others);
    return *table;
  }
  for (const char* name : {"avx512", "avx2"}) {
    if (const Kernels* table = supported(name)) return *table;
  }
  return portable::table;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& table = choose();
  return table;
}

const ProductKernels<Bf16>* bf16_kernels() {
#ifdef STROP_X86
  if (&kernels() == &avx512::table && __builtin_cpu_supports("avx512bf16")) return &avx512::bf16;
#endif
  return nullptr;
}

}  // namespace strop
