// Arrays of exactly the asked-for length, so that one element too far is noticed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <sys/mman.h>
#include <unistd.h>

// On the heap an address sanitizer watches both ends. It does not see every vector load, so the same
// cases also run against pages without access: the array ends where such a page begins, or begins
// where one ends; the rest of its own pages must keep their filling.
enum class Place { heap, before_page, after_page };

template <typename T> class Guarded {
public:
  Guarded(std::size_t length, Place place) : length_(length), place_(place) {
    if (place == Place::heap) {
      heap_.reset(new T[length]());
      data_ = heap_.get();
      return;
    }
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    usable_ = (length * sizeof(T) + page - 1) / page * page;
    mapped_ = usable_ + 2 * page;
    void *memory =
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    first_ = static_cast<unsigned char *>(memory) + page;
    mprotect(memory, page, PROT_NONE);
    mprotect(first_ + usable_, page, PROT_NONE);
    std::memset(first_, FILLING, usable_);
    unsigned char *start =
        place == Place::before_page ? first_ + usable_ - length * sizeof(T) : first_;
    std::memset(start, 0, length * sizeof(T));
    data_ = reinterpret_cast<T *>(start);
  }
  ~Guarded() {
    if (mapped_) munmap(first_ - (mapped_ - usable_) / 2, mapped_);
  }
  Guarded(const Guarded &) = delete;
  Guarded &operator=(const Guarded &) = delete;

  T *data() { return data_; }
  std::size_t size() const { return length_; }
  T &operator[](std::size_t i) { return data_[i]; }

  // Whether nothing around the array, as far as it can be looked at, was written.
  bool surroundings_intact() const {
    const auto *start = reinterpret_cast<const unsigned char *>(data_);
    for (const unsigned char *p = first_; p != first_ + usable_; ++p)
      if ((p < start || p >= start + length_ * sizeof(T)) && *p != FILLING) return false;
    return true;
  }

private:
  static constexpr unsigned char FILLING = 0xa5;
  std::size_t length_, usable_ = 0, mapped_ = 0;
  Place place_;
  std::unique_ptr<T[]> heap_;
  unsigned char *first_ = nullptr;
  T *data_ = nullptr;
};
