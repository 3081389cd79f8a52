#include "row_order.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

namespace s4d {
namespace {

constexpr int32_t LEAF_ROWS = 16;

struct Key {
  uint64_t place;
  int32_t row;
};

// Interleaves the bits of the axes: `table` spreads a byte to every d-th bit.
class ZCurve {
 public:
  explicit ZCurve(int num_dims) : num_dims_(num_dims), bits_(std::min(64 / num_dims, 32)) {
    for (uint64_t byte = 0; byte < 256; ++byte) {
      table_[byte] = 0;
      for (int i = 0; i < 8 && i * num_dims < 64; ++i) table_[byte] |= (byte >> i & 1) << i * num_dims;
    }
  }

  double top() const { return static_cast<double>((uint64_t{1} << bits_) - 1); }

  uint64_t spread(uint64_t cell, int axis) const {
    uint64_t place = 0;
    for (int shift = 0; shift < bits_; shift += 8) place |= table_[cell >> shift & 255] << (shift * num_dims_ + axis);
    return place;
  }

 private:
  int num_dims_, bits_;
  uint64_t table_[256];
};

// Stable radix sort of the bits in which keys differ.
void radix_sort(Key* keys, Key* other, int64_t count) {
  uint64_t differ = 0;
  for (int64_t i = 1; i < count; ++i) differ |= keys[i].place ^ keys[0].place;
  const int digit = count < 4096 ? 8 : 11;
  const uint64_t last = (uint64_t{1} << digit) - 1;
  std::vector<uint32_t> places(last + 1);
  Key* const first = keys;
  for (int shift = 0; shift < 64; shift += digit) {
    if (!(differ >> shift & last)) continue;
    std::fill(places.begin(), places.end(), 0u);
    for (int64_t i = 0; i < count; ++i) ++places[keys[i].place >> shift & last];
    uint32_t start = 0;
    for (uint32_t& place : places) start += std::exchange(place, start);
    for (int64_t i = 0; i < count; ++i) other[places[keys[i].place >> shift & last]++] = keys[i];
    std::swap(keys, other);
  }
  if (keys != first) std::memcpy(other, keys, count * sizeof(Key));
}

}  // namespace

template <class T>
std::vector<int32_t> existing_rows(const T* rows, const uint8_t* mask, int64_t num_rows, int num_dims) {
  std::vector<int32_t> order;
  order.reserve(num_rows);
  for (int64_t i = 0; i < num_rows; ++i) {
    if (mask && !mask[i]) continue;
    T zero = 0;  // stays 0, or becomes NaN
    for (int c = 0; c < num_dims; ++c) zero += rows[i * num_dims + c] * T(0);
    if (zero == T(0)) order.push_back(static_cast<int32_t>(i));
  }
  return order;
}

template <class T>
std::vector<uint64_t> sort_in_space(const T* rows, int num_dims, std::vector<int32_t>& order) {
  int64_t count = static_cast<int64_t>(order.size());
  ZCurve curve(num_dims);
  // The low end and the common scale of all axes: cells are cubes.
  std::vector<double> low(num_dims);
  double extent = 0;
  for (int c = 0; c < num_dims; ++c) {
    T least = std::numeric_limits<T>::max(), most = std::numeric_limits<T>::lowest();
    for (int32_t row : order) {
      least = std::min(least, rows[int64_t{row} * num_dims + c]);
      most = std::max(most, rows[int64_t{row} * num_dims + c]);
    }
    low[c] = least;
    extent = std::max(extent, double(most) - double(least));
  }
  double scale = extent > 0 ? curve.top() / extent : 0;
  Scratch memory(2 * count * sizeof(Key));
  Key* keys = memory.as<Key>();
  for (int64_t i = 0; i < count; ++i) {
    keys[i] = {0, order[i]};
    const T* row = rows + int64_t{order[i]} * num_dims;
    for (int c = 0; c < num_dims; ++c) {
      double cell = (double(row[c]) - low[c]) * scale;  // NaN where the extent is beyond double
      keys[i].place |= curve.spread(cell > 0 ? static_cast<uint64_t>(std::min(cell, curve.top())) : 0, c);
    }
  }
  radix_sort(keys, keys + count, count);
  std::vector<uint64_t> places(count);
  for (int64_t i = 0; i < count; ++i) {
    order[i] = keys[i].row;
    places[i] = keys[i].place;
  }
  return places;
}

template <class T>
void OwnedTree<T>::build(const T* rows, int num_dims, const std::vector<int32_t>& order,
                         const std::vector<uint64_t>& keys) {
  num_dims_ = num_dims;
  int32_t count = static_cast<int32_t>(order.size());
  rows_ = Scratch(int64_t{count} * num_dims * sizeof(T));
  ids_ = Scratch(count * sizeof(T));
  for (int32_t i = 0; i < count; ++i) {
    std::memcpy(rows_.as<T>() + int64_t{i} * num_dims, rows + int64_t{order[i]} * num_dims, num_dims * sizeof(T));
    ids_.as<T>()[i] = lane_id(order[i], T());
  }
  if (keys.empty()) {
    nodes_ = {TreeNode{0, count, 0}};
  } else {
    nodes_.reserve(count / 2);
    boxes_.reserve(int64_t{count} * num_dims);
    add_node(keys, 0, count);
  }
  tree_ = {rows_.as<T>(), ids_.as<T>(), nodes_.data(), boxes_.data()};
}

// Halves at the highest bit in which the keys differ, so that no box reaches over a gap in the curve.
template <class T>
int32_t OwnedTree<T>::add_node(const std::vector<uint64_t>& keys, int32_t begin, int32_t end) {
  int32_t node = static_cast<int32_t>(nodes_.size());
  nodes_.push_back({begin, end - begin, 0});
  boxes_.resize(nodes_.size() * 2 * num_dims_);
  if (end - begin <= LEAF_ROWS) {
    box_leaf(boxes_.data() + int64_t{2} * node * num_dims_, begin, end);
    return node;
  }
  uint64_t differ = keys[begin] ^ keys[end - 1];
  int32_t middle = begin + (end - begin) / 2;
  if (differ) {
    uint64_t bit = uint64_t{1} << (63 - __builtin_clzll(differ));
    auto set = [&](uint64_t key) { return (key & bit) == 0; };
    middle = static_cast<int32_t>(std::partition_point(keys.begin() + begin, keys.begin() + end, set) - keys.begin());
  }
  int32_t left = add_node(keys, begin, middle), right = add_node(keys, middle, end);
  nodes_[node] = {0, 0, right};
  T* box = boxes_.data() + int64_t{2} * node * num_dims_;
  const T *a = boxes_.data() + int64_t{2} * left * num_dims_, *b = boxes_.data() + int64_t{2} * right * num_dims_;
  for (int c = 0; c < num_dims_; ++c) {
    box[c] = std::min(a[c], b[c]);
    box[num_dims_ + c] = std::max(a[num_dims_ + c], b[num_dims_ + c]);
  }
  return node;
}

template <class T>
void OwnedTree<T>::box_leaf(T* box, int32_t begin, int32_t end) const {
  const T* rows = rows_.as<T>();
  for (int c = 0; c < num_dims_; ++c) box[c] = box[num_dims_ + c] = rows[int64_t{begin} * num_dims_ + c];
  for (int64_t i = begin + 1; i < end; ++i)
    for (int c = 0; c < num_dims_; ++c) {
      box[c] = std::min(box[c], rows[i * num_dims_ + c]);
      box[num_dims_ + c] = std::max(box[num_dims_ + c], rows[i * num_dims_ + c]);
    }
}

#define S4D_INSTANTIATE(T)                                                                     \
  template std::vector<int32_t> existing_rows(const T*, const uint8_t*, int64_t, int);         \
  template std::vector<uint64_t> sort_in_space(const T*, int, std::vector<int32_t>&);          \
  template class OwnedTree<T>;
S4D_INSTANTIATE(float)
S4D_INSTANTIATE(double)

}  // namespace s4d
