// Which units a mask keeps.
#pragma once

#include <cstdint>

namespace strop {

// chosen[r] = the positions of the `kept` smallest of keys[r][0 .. columns), ascending; of equal keys the first ones.
void smallest(const int32_t* keys, int64_t rows, int64_t columns, int64_t kept, int32_t* chosen);

}  // namespace strop
