#include "runtime.h"

#include <cstdlib>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
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

struct Store {
  std::vector<Block> blocks;
  size_t wanted = 0;

  ~Store() { release(); }

  void release() {
    for (Block& block : blocks) std::free(block.data);
    blocks.clear();
  }

  void* take(size_t bytes) {
    wanted += bytes;
#ifdef __SANITIZE_ADDRESS__
    constexpr bool shared = false;  // one allocation each, so that running over its end is seen
#else
    constexpr bool shared = true;
#endif
    if (!shared || blocks.empty() || blocks.back().size - blocks.back().used < bytes) {
      const size_t size = shared && blocks.empty() ? std::max(wanted, bytes) : bytes;
      blocks.push_back({static_cast<char*>(allocate(size)), size, 0});
    }
    Block& block = blocks.back();
    void* data = block.data + block.used;
    block.used += bytes;
    return data;
  }

  // Several blocks become one of their total size at the next operation.
  void reset() {
    if (blocks.size() == 1) {
      blocks[0].used = 0;
      wanted = 0;
#ifdef __SANITIZE_ADDRESS__
      release();
#endif
    } else {
      release();
    }
  }
};

thread_local Store store;
thread_local int depth = 0;

}  // namespace

Arena::Arena() { ++depth; }
Arena::~Arena() {
  if (--depth == 0) store.reset();
}

float* Arena::floats(int64_t count) {
  const size_t bytes = (static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(float) + kAlignment - 1) /
                       kAlignment * kAlignment;
  return static_cast<float*>(store.take(bytes));
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
