#include "kept.h"

#include <deque>
#include <mutex>

#include "threads.h"

namespace s4d {
namespace {

constexpr size_t KEPT_BYTES = size_t{512} << 20;

struct Kept {
  int64_t token;
  size_t bytes;
  std::unique_ptr<ViewGroup> group;
};

std::mutex mutex;
std::deque<Kept> kept;  // oldest first
size_t kept_bytes = 0;

}  // namespace

// A forked child keeps nothing: another thread may have held the lock when it was made.
void keep(int64_t token, std::unique_ptr<ViewGroup> group) {
  size_t bytes = group->bytes();
  if (!threads_allowed() || bytes > KEPT_BYTES) return;
  std::lock_guard<std::mutex> lock(mutex);
  kept_bytes += bytes;
  kept.push_back({token, bytes, std::move(group)});
  while (kept_bytes > KEPT_BYTES) {
    kept_bytes -= kept.front().bytes;
    kept.pop_front();
  }
}

std::unique_ptr<ViewGroup> take(int64_t token) {
  if (!token || !threads_allowed()) return nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  for (auto it = kept.begin(); it != kept.end(); ++it) {
    if (it->token != token) continue;
    std::unique_ptr<ViewGroup> group = std::move(it->group);
    kept_bytes -= it->bytes;
    kept.erase(it);
    return group;
  }
  return nullptr;
}

}  // namespace s4d
