// What the driver (neighbours.cpp) hands to the loops over rows (neighbour_scan.cpp, once per instruction set).
//
// Distances are summed axis by axis without fused multiplication, so that every instruction set, the plain scan and
// the tree give the same bits. Rounding is monotone: the same sum over the gaps to a box is never above that of a row
// in it.
#pragma once

#include <cstdint>

#include "../math/lane.h"

namespace s4d {

constexpr int MAX_LANES = 16;
constexpr int ROW_BLOCK = 64;    // rows of a block of FarthestTask
constexpr int MAX_DEPTH = 128;   // of a tree: 64 bits of place and 31 of row number are fewer

// A row number as a SIMD lane holds it: compares as the number does, and is no denormal, which a thread may flush.
S4D_HD float lane_id(int32_t row, float) {
  int32_t bits = row + 0x00800001;
  float id;
  __builtin_memcpy(&id, &bits, sizeof id);
  return id;
}
S4D_HD int32_t row_of(float id) {
  int32_t bits;
  __builtin_memcpy(&bits, &id, sizeof bits);
  return bits - 0x00800001;
}
S4D_HD double lane_id(int32_t row, double) { return row; }
S4D_HD int32_t row_of(double id) { return static_cast<int32_t>(id); }

// A node of a binary tree, stored depth first: the left child follows its parent.
struct TreeNode {
  int32_t first, count;  // rows of a leaf; count = 0: not a leaf
  int32_t right;
};

template <class T>
struct RowTree {
  const T* rows;          // [m d] in tree order
  const T* ids;           // [m] lane_id of each
  const TreeNode* nodes;
  const T* boxes;         // [nodes 2 d] lowest and highest coordinate of the node's rows
};

template <class T>
struct NearestTask {
  const RowTree<T>* tree;
  int num_dims, num;       // d, k
  bool ascending;          // one leaf with ascending ids: ties need no comparison
  const T* queries;        // [q d]
  const int32_t* order;    // queries of this task; neighbours in space should be neighbours here
  int64_t count;
  T* scratch;              // nearest_scratch(d, k), 64-byte aligned
  T* squares;              // [q k]
  int64_t* index;
};

constexpr int64_t nearest_scratch(int64_t num_dims, int64_t num) {
  return (num_dims + 2 * num + MAX_DEPTH) * MAX_LANES;
}

template <class T>
struct FarthestTask {
  int num_dims;
  int64_t num_blocks;       // a multiple of MAX_LANES; the last may be empty
  const T* blocks;          // [blocks d ROW_BLOCK]
  const T* ids;             // [blocks ROW_BLOCK] lane_id
  const T* boxes;           // [2 d blocks]
  T* gaps;                  // [blocks ROW_BLOCK] squared distance to the chosen rows, -1: never to be chosen
  T *top, *top_ids;         // [blocks] largest gap and the lowest row that has it
  const T* points;          // [n d] of the set
  const int32_t* places;    // [n] where a row lies in the blocks
  int64_t start, num;
  int64_t* index;           // [num]
  T* squares;
};

struct NeighbourLoops {
  void (*nearest_float)(const NearestTask<float>&);
  void (*nearest_double)(const NearestTask<double>&);
  void (*farthest_float)(const FarthestTask<float>&);
  void (*farthest_double)(const FarthestTask<double>&);
};

#define S4D_DECLARE_NEIGHBOURS(ns)                       \
  namespace ns {                                         \
  void nearest_float(const s4d::NearestTask<float>&);    \
  void nearest_double(const s4d::NearestTask<double>&);  \
  void farthest_float(const s4d::FarthestTask<float>&);  \
  void farthest_double(const s4d::FarthestTask<double>&); \
  }

}  // namespace s4d
