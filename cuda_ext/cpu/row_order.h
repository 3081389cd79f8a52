// Rows of a set in an order where neighbours in space are near in memory, and a tree over that order.
#pragma once

#include <cstdint>
#include <vector>

#include "neighbour_scan.h"
#include "scratch.h"

namespace s4d {

// Numbers of the rows that exist, ascending: mask (null: all) is not 0 and every coordinate is finite.
template <class T>
std::vector<int32_t> existing_rows(const T* rows, const uint8_t* mask, int64_t num_rows, int num_dims);

// Sorts `order` along a Z curve through the rows [n d] that it names; returns their keys, ascending.
template <class T>
std::vector<uint64_t> sort_in_space(const T* rows, int num_dims, std::vector<int32_t>& order);

// The rows of `order`, copied, and the boxes round them. Without keys: one leaf.
template <class T>
class OwnedTree {
 public:
  void build(const T* rows, int num_dims, const std::vector<int32_t>& order, const std::vector<uint64_t>& keys);
  const RowTree<T>& tree() const { return tree_; }

 private:
  int32_t add_node(const std::vector<uint64_t>& keys, int32_t begin, int32_t end);
  void box_leaf(T* box, int32_t begin, int32_t end) const;

  int num_dims_ = 0;
  Scratch rows_, ids_;
  std::vector<TreeNode> nodes_;
  std::vector<T> boxes_;
  RowTree<T> tree_ = {};
};

}  // namespace s4d
