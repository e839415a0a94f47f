#include "tasks.h"

#include <algorithm>
#include <exception>

#include "runtime.h"

namespace strop {
namespace {

// Less work in a task is not worth a second thread: it takes some 25 us.
constexpr int64_t kLeastOfTask = 8 * kLeastOperations;

bool worth_a_thread_each(const Task& first, const Task& second) {
  const int64_t least = std::min(first.loops * first.operations, second.loops * second.operations);
  const int64_t of_loop = std::max(first.operations, second.operations);
  const bool loops_take_more = threads() >= 4 && of_loop >= 4 * kLeastOperations;
  return threads() > 1 && current_team() == nullptr && least >= kLeastOfTask && !loops_take_more;
}

}  // namespace

void run_task(const Task& task) { with_team_for(task.operations, task.run); }

void run_side_by_side(const Task& first, const Task& second) {
  if (!worth_a_thread_each(first, second)) {
    run_task(first);
    run_task(second);
    return;
  }
  const Task* tasks[] = {&first, &second};
  std::exception_ptr failures[2];
  parallel(2, 1, [&](int64_t, int64_t begin, int64_t end) {
    const Alone alone;
    for (int64_t i = begin; i < end; ++i) {
      try {
        tasks[i]->run();
      } catch (...) {
        failures[i] = std::current_exception();
      }
    }
  });
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

}  // namespace strop
