// Runs tasks: in order on this thread, or in any order on several. No task may write where another does.
#pragma once

#include <cstdint>

namespace s4d {

// False in a forked child, where the OpenMP threads of the parent do not exist and waiting for them would never end.
bool threads_allowed();

template <class F>
void parallel_for(int64_t num_tasks, int num_threads, const F& task) {
  if (num_threads <= 1 || num_tasks <= 1 || !threads_allowed()) {
    for (int64_t i = 0; i < num_tasks; ++i) task(i);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(num_threads)
  for (int64_t i = 0; i < num_tasks; ++i) task(i);
}

}  // namespace s4d
