#include "runtime.h"

#include <cstdlib>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace strop {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

struct Block {
  char* data = nullptr;
  size_t size = 0, used = 0;
};

void* allocate(size_t bytes) {
  const size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  void* data = nullptr;
  if (posix_memalign(&data, alignment, bytes) != 0) throw std::bad_alloc();
  advise_huge(data, bytes);
  return data;
}

#ifdef __SANITIZE_ADDRESS__
constexpr bool kShared = false;  // one allocation each, so that running over its end is seen
#else
constexpr bool kShared = true;
#endif

struct Store {
  std::vector<Block> blocks;
  size_t current = 0;           // block that is being filled
  size_t in_use = 0, peak = 0;  // bytes taken by all arenas; the most of them since the blocks were made
  int arenas = 0;

  ~Store() { release(); }

  void release() {
    for (const Block& block : blocks) std::free(block.data);
    blocks.clear();
    current = 0;
  }

  void* take(size_t bytes) {
    in_use += bytes;
    peak = std::max(peak, in_use);
    while (current < blocks.size() && (!kShared || blocks[current].size - blocks[current].used < bytes)) ++current;
    if (current == blocks.size()) {
      // A first block holds all that the operations before this one needed.
      const size_t size = kShared && blocks.empty() ? peak : bytes;
      blocks.push_back({static_cast<char*>(allocate(size)), size, 0});
    }
    Block& block = blocks[current];
    void* data = block.data + block.used;
    block.used += bytes;
    return data;
  }

  void back_to(size_t block, size_t used) {
    current = block;
    for (size_t i = block; i < blocks.size(); ++i) blocks[i].used = i == block ? used : 0;
    in_use = 0;
    for (const Block& one : blocks) in_use += one.used;
    // Nothing is in use any more: several blocks become one of their size at the next operation.
    if (arenas == 0 && (!kShared || blocks.size() > 1)) release();
  }
};

thread_local Store store;

}  // namespace

Arena::Arena() : block_(store.current), used_(store.current < store.blocks.size() ? store.blocks[store.current].used : 0) {
  ++store.arenas;
}

Arena::~Arena() {
  --store.arenas;
  store.back_to(block_, used_);
}

float* Arena::floats(int64_t count) {
  const size_t bytes = (static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(float) + kAlignment - 1) /
                       kAlignment * kAlignment;
  return static_cast<float*>(store.take(bytes));
}

int64_t l2_bytes() {
  constexpr int64_t kUnknown = int64_t{1} << 20;
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const auto bytes = static_cast<int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE));
  return bytes > 0 ? bytes : kUnknown;
#else
  return kUnknown;
#endif
}

void advise_huge(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < 2 * kHugePage) return;
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (address + bytes) / kHugePage * kHugePage;
  if (last > first) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace strop
