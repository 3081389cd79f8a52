// Runs the loops over rows: chooses plain scan or tree, prepares sets and cuts queries into tasks, each of which writes
// rows of its own.
#include "../neighbours.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "row_order.h"
#include "scratch.h"
#include "threads.h"

S4D_DECLARE_NEIGHBOURS(s4d_base)
#ifdef S4D_X86
S4D_DECLARE_NEIGHBOURS(s4d_avx2)
S4D_DECLARE_NEIGHBOURS(s4d_avx512)
#endif

namespace s4d {
namespace {

constexpr int64_t TASK_QUERIES = 256;

// Doubles go one by one on every machine, so that loop is built once.
#define S4D_LOOPS(ns) {ns::nearest_float, s4d_base::nearest_double, ns::farthest_float, s4d_base::farthest_double}
#ifdef S4D_X86
constexpr NeighbourLoops LOOPS[] = {S4D_LOOPS(s4d_base), S4D_LOOPS(s4d_avx2), S4D_LOOPS(s4d_avx512)};
#else
constexpr NeighbourLoops LOOPS[] = {S4D_LOOPS(s4d_base)};
#endif

const NeighbourLoops* loops_of(int instruction_set) {
  int best = best_instruction_set();
  if (instruction_set > best) return nullptr;
  return &LOOPS[instruction_set < 0 ? best : instruction_set];
}

void run(const NeighbourLoops& loops, const NearestTask<float>& task) { loops.nearest_float(task); }
void run(const NeighbourLoops& loops, const NearestTask<double>& task) { loops.nearest_double(task); }
void run(const NeighbourLoops& loops, const FarthestTask<float>& task) { loops.farthest_float(task); }
void run(const NeighbourLoops& loops, const FarthestTask<double>& task) { loops.farthest_double(task); }

// parallel_for of a task that may run out of memory: no exception may leave a thread.
template <class F>
void guarded_for(int64_t num_tasks, int num_threads, const F& task) {
  std::atomic<bool> failed{false};
  parallel_for(num_tasks, num_threads, [&](int64_t i) {
    try {
      task(i);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  });
  if (failed) throw std::bad_alloc();
}

// Where the tree is faster than the scan, measured with 64 to 100,000 points and queries, 3 to 9 axes, 1 to 24
// neighbours. Boxes hold little back in a space of many axes.
bool tree_pays(const NeighbourOptions& options, size_t num_points, size_t num_queries) {
  if (options.spatial >= 0) return options.spatial == 1;
  return num_points >= 256 && num_queries >= 512 && options.num_dims <= 12;
}

// The same for farthest points: sorting costs about as much as 48 scans.
bool blocks_pay(const NeighbourOptions& options, size_t num_points, int64_t num) {
  if (options.spatial >= 0) return options.spatial == 1;
  return num_points >= 2048 && num >= 48;
}

template <class T>
class NearestCall {
 public:
  NearestCall(const NeighbourOptions& options, const NeighbourLoops& loops, const RowSets& points,
              const RowSets& queries, int64_t num)
      : options_(options), loops_(loops), points_(points), queries_(queries), num_(num),
        num_dims_(static_cast<int>(options.num_dims)),
        among_themselves_(points.rows == queries.rows && points.mask == queries.mask &&
                          points.num_rows == queries.num_rows),
        sets_(options.num_sets) {}

  void run(T* squares, int64_t* index) {
    guarded_for(options_.num_sets, options_.num_threads, [&](int64_t i) { list_rows(i); });
    guarded_for(2 * options_.num_sets, options_.num_threads, [&](int64_t i) {
      i % 2 ? order_queries(i / 2, squares, index) : plant(i / 2);
    });
    std::vector<int64_t> firsts(1, 0);  // number of each set's first task
    for (const Set& set : sets_) {
      int64_t count = static_cast<int64_t>(queries_of(set).size());
      firsts.push_back(firsts.back() + (count + TASK_QUERIES - 1) / TASK_QUERIES);
    }
    guarded_for(firsts.back(), options_.num_threads, [&](int64_t i) {
      int64_t set = std::upper_bound(firsts.begin(), firsts.end(), i) - firsts.begin() - 1;
      search(set, (i - firsts[set]) * TASK_QUERIES, squares, index);
    });
  }

 private:
  struct Set {
    std::vector<int32_t> points, queries;  // rows that exist, in the order of the search
    bool in_space = false;
    OwnedTree<T> tree;
  };

  const T* rows_of(const RowSets& sets, int64_t set) const {
    return static_cast<const T*>(sets.rows) + set * sets.num_rows * num_dims_;
  }

  std::vector<int32_t> existing(const RowSets& sets, int64_t set) const {
    const uint8_t* mask = sets.mask ? sets.mask + set * sets.num_rows : nullptr;
    return existing_rows(rows_of(sets, set), mask, sets.num_rows, num_dims_);
  }

  // Points that look for neighbours among themselves are put in order once.
  const std::vector<int32_t>& queries_of(const Set& set) const { return among_themselves_ ? set.points : set.queries; }

  void list_rows(int64_t i) {
    Set& set = sets_[i];
    set.points = existing(points_, i);
    if (!among_themselves_ && !set.points.empty()) set.queries = existing(queries_, i);
    set.in_space = tree_pays(options_, set.points.size(), queries_of(set).size());
  }

  void plant(int64_t i) {
    Set& set = sets_[i];
    if (queries_of(set).empty()) return;
    std::vector<uint64_t> keys;
    if (set.in_space) keys = sort_in_space(rows_of(points_, i), num_dims_, set.points);
    set.tree.build(rows_of(points_, i), num_dims_, set.points, keys);
  }

  void order_queries(int64_t i, T* squares, int64_t* index) {
    Set& set = sets_[i];
    int64_t begin = i * queries_.num_rows * num_, end = begin + queries_.num_rows * num_;
    if (static_cast<int64_t>(queries_of(set).size()) < queries_.num_rows) {
      std::fill(squares + begin, squares + end, std::numeric_limits<T>::infinity());
      std::fill(index + begin, index + end, -1);
    }
    if (set.in_space && !among_themselves_) sort_in_space(rows_of(queries_, i), num_dims_, set.queries);
  }

  void search(int64_t i, int64_t begin, T* squares, int64_t* index) {
    const Set& set = sets_[i];
    const std::vector<int32_t>& queries = queries_of(set);
    Scratch scratch(nearest_scratch(num_dims_, num_) * sizeof(T));
    int64_t count = std::min<int64_t>(TASK_QUERIES, queries.size() - begin), at = i * queries_.num_rows * num_;
    s4d::run(loops_, NearestTask<T>{&set.tree.tree(), num_dims_, static_cast<int>(num_), !set.in_space,
                                    rows_of(queries_, i), queries.data() + begin, count, scratch.as<T>(),
                                    squares + at, index + at});
  }

  const NeighbourOptions& options_;
  const NeighbourLoops& loops_;
  const RowSets &points_, &queries_;
  int64_t num_;
  int num_dims_;
  bool among_themselves_;
  std::vector<Set> sets_;
};

// The rows of `order` cut into blocks, with a box round each.
template <class T>
class RowBlocks {
 public:
  RowBlocks(const T* rows, int64_t num_rows, int num_dims, const std::vector<int32_t>& order)
      : num_dims_(num_dims) {
    constexpr int64_t GROUP = ROW_BLOCK * MAX_LANES;
    int64_t count = static_cast<int64_t>(order.size()), slots = (count + GROUP - 1) / GROUP * GROUP;
    num_blocks_ = slots / ROW_BLOCK;
    memory_ = Scratch((slots * (num_dims + 2) + num_blocks_ * 2 * (num_dims + 1)) * sizeof(T));
    blocks_ = memory_.as<T>();
    ids_ = blocks_ + slots * num_dims;
    gaps_ = ids_ + slots;
    boxes_ = gaps_ + slots;
    top_ = boxes_ + num_blocks_ * 2 * num_dims;
    places_ = Scratch(num_rows * sizeof(int32_t));
    for (int64_t block = 0; block < num_blocks_; ++block)
      fill(rows, order, block, std::min<int64_t>(ROW_BLOCK, count - block * ROW_BLOCK));
  }

  FarthestTask<T> task() const {
    return {num_dims_, num_blocks_, blocks_, ids_, boxes_, gaps_, top_, top_ + num_blocks_, nullptr,
            places_.as<int32_t>(), 0, 0, nullptr, nullptr};
  }

 private:
  void fill(const T* rows, const std::vector<int32_t>& order, int64_t block, int64_t count) {
    const T infinity = std::numeric_limits<T>::infinity();
    T *to = blocks_ + block * ROW_BLOCK * num_dims_, *box = boxes_ + block;
    for (int c = 0; c < 2 * num_dims_; ++c) box[c * num_blocks_] = c < num_dims_ ? infinity : -infinity;
    top_[block] = count > 0 ? infinity : T(-1);
    top_[num_blocks_ + block] = lane_id(-1, T());
    for (int64_t i = 0; i < ROW_BLOCK; ++i) {
      int64_t slot = block * ROW_BLOCK + i;
      int32_t row = i < count ? order[slot] : -1;
      gaps_[slot] = row < 0 ? T(-1) : infinity;
      ids_[slot] = lane_id(row, T());
      if (row >= 0) places_.as<int32_t>()[row] = static_cast<int32_t>(slot);
      for (int c = 0; c < num_dims_; ++c) {
        T x = row < 0 ? T(0) : rows[int64_t{row} * num_dims_ + c];
        to[c * ROW_BLOCK + i] = x;
        if (row < 0) continue;
        box[c * num_blocks_] = std::min(box[c * num_blocks_], x);
        box[(num_dims_ + c) * num_blocks_] = std::max(box[(num_dims_ + c) * num_blocks_], x);
      }
    }
  }

  int num_dims_;
  int64_t num_blocks_;
  Scratch memory_, places_;
  T *blocks_, *ids_, *gaps_, *boxes_, *top_;
};

template <class T>
void farthest_of(const NeighbourOptions& options, const NeighbourLoops& loops, const RowSets& points,
                 const int64_t* start, int64_t num, int64_t* index, T* squares) {
  int num_dims = static_cast<int>(options.num_dims);
  guarded_for(options.num_sets, options.num_threads, [&](int64_t set) {
    const T* rows = static_cast<const T*>(points.rows) + set * points.num_rows * num_dims;
    const uint8_t* mask = points.mask ? points.mask + set * points.num_rows : nullptr;
    std::vector<int32_t> order = existing_rows(rows, mask, points.num_rows, num_dims);
    int64_t first = order.empty() ? -1 : order[0];
    if (std::binary_search(order.begin(), order.end(), start[set])) first = start[set];
    if (blocks_pay(options, order.size(), num)) sort_in_space(rows, num_dims, order);
    RowBlocks<T> blocks(rows, points.num_rows, num_dims, order);
    FarthestTask<T> task = blocks.task();
    task.points = rows;
    task.start = first;
    task.num = num;
    task.index = index + set * num;
    task.squares = squares + set * num;
    run(loops, task);
  });
}

}  // namespace

int farthest_points(const NeighbourOptions& options, const RowSets& points, const int64_t* start, int64_t num,
                    int64_t* index, void* squares) {
  const NeighbourLoops* loops = loops_of(options.instruction_set);
  if (!loops) return BAD_INSTRUCTION_SET;
  try {
    if (options.is_double)
      farthest_of(options, *loops, points, start, num, index, static_cast<double*>(squares));
    else
      farthest_of(options, *loops, points, start, num, index, static_cast<float*>(squares));
  } catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
  }
  return OK;
}

int nearest(const NeighbourOptions& options, const RowSets& points, const RowSets& queries, int64_t num, void* squares,
            int64_t* index) {
  const NeighbourLoops* loops = loops_of(options.instruction_set);
  if (!loops) return BAD_INSTRUCTION_SET;
  try {
    if (options.is_double)
      NearestCall<double>(options, *loops, points, queries, num).run(static_cast<double*>(squares), index);
    else
      NearestCall<float>(options, *loops, points, queries, num).run(static_cast<float*>(squares), index);
  } catch (const std::bad_alloc&) {
    return OUT_OF_MEMORY;
  }
  return OK;
}

}  // namespace s4d
