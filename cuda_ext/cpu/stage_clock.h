// How long each stage of a call took.
#pragma once

#include <chrono>

#include "../ops.h"

namespace s4d {

class StageClock {
 public:
  explicit StageClock(double (&seconds)[NUM_STAGES]) : seconds_(seconds), last_(Clock::now()) {
    for (double& s : seconds) s = 0;
  }
  // The time since the last tick was spent in `stage`.
  void tick(int stage) {
    Clock::time_point now = Clock::now();
    seconds_[stage] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  double (&seconds_)[NUM_STAGES];
  Clock::time_point last_;
};

}  // namespace s4d
