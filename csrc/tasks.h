// Tasks: the parts of operations that come after their arguments were checked.
#pragma once

#include <cstdint>
#include <functional>

namespace strop {

struct Task {
  std::function<void()> run;
  int64_t loops;       // one after another, with all threads in each
  int64_t operations;  // of each loop
};

// Runs a task, at once or with another; the task lives until the runner returns.
using Runner = std::function<void(const Task&)>;

// With torch's threads, where the loops are worth them.
void run_task(const Task& task);

// Two tasks that do not depend on each other: one thread each, so that no loop has to wait for another thread, unless
// there are threads enough for several in each loop. Results do not depend on it.
void run_side_by_side(const Task& first, const Task& second);

// An operation as a function of its arguments alone, and one of the arguments of two, run side by side.
template <auto operation>
struct Operation;

template <typename... Arguments, void (*operation)(const Runner&, Arguments...)>
struct Operation<operation> {
  static void one(Arguments... arguments) { operation(run_task, arguments...); }

  static void two(Arguments... arguments, Arguments... others) {
    operation([&](const Task& first) {
      operation([&](const Task& second) { run_side_by_side(first, second); }, others...);
    }, arguments...);
  }
};

}  // namespace strop
