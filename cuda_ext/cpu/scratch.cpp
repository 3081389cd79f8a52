#include "scratch.h"

#include <pthread.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

#include "threads.h"

namespace s4d {
namespace {

constexpr size_t SPARE_BYTES = size_t{256} << 20;
constexpr int SPARE_BLOCKS = 64;
constexpr size_t PAGE = 4096, HUGE_PAGE = size_t{2} << 20;
constexpr size_t HUGE_BYTES = 2 * HUGE_PAGE;  // from this size on, blocks are made of huge pages

struct Spare {
  void* data;
  size_t size;
};

std::mutex spare_mutex;
Spare spare[SPARE_BLOCKS];
int num_spare = 0;
size_t spare_bytes = 0;
bool forked = false;

// The child of a fork must neither find the lock taken nor wait for threads that were not copied.
const int registered = pthread_atfork([] { spare_mutex.lock(); }, [] { spare_mutex.unlock(); },
                                      [] {
                                        forked = true;
                                        spare_mutex.unlock();
                                      });

void* take_kept(size_t bytes, size_t& size) {
  std::lock_guard<std::mutex> lock(spare_mutex);
  int best = -1;
  for (int i = 0; i < num_spare; ++i)
    if (spare[i].size >= bytes && spare[i].size / 4 <= bytes && (best < 0 || spare[i].size < spare[best].size)) best = i;
  if (best < 0) return nullptr;
  Spare block = spare[best];
  spare[best] = spare[--num_spare];
  spare_bytes -= block.size;
  size = block.size;
  return block.data;
}

void give_back(void* data, size_t size) {
  {
    std::lock_guard<std::mutex> lock(spare_mutex);
    if (num_spare < SPARE_BLOCKS && spare_bytes + size <= SPARE_BYTES) {
      spare[num_spare++] = {data, size};
      spare_bytes += size;
      return;
    }
  }
  std::free(data);
}

}  // namespace

void prefer_huge_pages(void* data, size_t bytes) {
#ifdef __linux__
  uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / HUGE_PAGE * HUGE_PAGE;
  if (data && begin + HUGE_PAGE < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

bool threads_allowed() { return registered == 0 && !forked; }

Scratch::Scratch(size_t bytes) {
  if (!bytes) return;
  size_t page = bytes >= HUGE_BYTES ? HUGE_PAGE : PAGE;
  size_ = (bytes + page - 1) / page * page;
  data_ = take_kept(size_, size_);
  if (data_) return;
  data_ = std::aligned_alloc(page, size_);
  if (!data_) throw std::bad_alloc();
  if (page == HUGE_PAGE) prefer_huge_pages(data_, size_);
}

Scratch::~Scratch() {
  if (data_) give_back(data_, size_);
}

Scratch::Scratch(Scratch&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Scratch& Scratch::operator=(Scratch&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace s4d
