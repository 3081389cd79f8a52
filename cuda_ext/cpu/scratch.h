// Working memory that survives a call, so that repeated renders do not pay for fresh pages. At most 256 MB are kept.
#pragma once

#include <cstddef>

namespace s4d {

// Asks for huge pages, where the system has them: random access to much memory and the first touch of it are several
// times faster. Does nothing for small blocks and null.
void prefer_huge_pages(void* data, size_t bytes);

class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(size_t bytes);  // contents undefined, 64-byte aligned; throws std::bad_alloc
  ~Scratch();
  Scratch(Scratch&& other) noexcept;
  Scratch& operator=(Scratch&& other) noexcept;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace s4d
