// The loops over rows. Nearest: a lane is a query, so rows are broadcast, ties and insertion cost no branches, and
// queries that lie together walk the tree together. Farthest: a lane is a row.
#include "neighbour_scan.h"

#include "simd.h"

namespace S4D_NS {
namespace {

using s4d::FarthestTask;
using s4d::lane_id;
using s4d::NearestTask;
using s4d::ROW_BLOCK;
using s4d::row_of;
using s4d::RowTree;
using s4d::TreeNode;

struct Floats {
  using T = float;
  using L = Lanes;
  static constexpr int W = WIDTH;
  S4D_HD static L load(const T* p) { return Lanes::load(p); }
  S4D_HD static void store(T* p, L x) { x.store(p); }
};

struct Doubles {
  using T = double;
  using L = double;
  static constexpr int W = 1;
  S4D_HD static L load(const T* p) { return *p; }
  S4D_HD static void store(T* p, L x) { *p = x; }
};

S4D_HD unsigned bits(bool m) { return m; }

template <class M>
S4D_HD bool any(M m) {
  return bits(m) != 0;
}

// a < b, and where they are equal i < j. No id is as low as -2.
template <class L>
S4D_HD auto comes_before(L a, L b, L i, L j) {
  return (a <= b) & (select(a < b, L(-2.0f), i) < j);
}

// W places of D axes in registers.
template <class N, int D>
struct Places {
  typename N::L axes[D];
  S4D_HD Places(const typename N::T* x, int) {
    for (int c = 0; c < D; ++c) axes[c] = N::load(x + c * N::W);
  }
  S4D_HD typename N::L operator[](int c) const { return axes[c]; }
  S4D_HD static constexpr int dims() { return D; }
};

// The number of axes is known at run time only: they stay in memory, [d W].
template <class N>
struct Places<N, 0> {
  const typename N::T* x;
  int num_dims;
  S4D_HD Places(const typename N::T* x, int num_dims) : x(x), num_dims(num_dims) {}
  S4D_HD typename N::L operator[](int c) const { return N::load(x + c * N::W); }
  S4D_HD int dims() const { return num_dims; }
};

// Squared distances to a row [d].
template <class N, int D>
S4D_HD typename N::L distance(const Places<N, D>& x, const typename N::T* row) {
  using L = typename N::L;
  L gap = x[0] - L(row[0]), sum = gap * gap;
  for (int c = 1; c < x.dims(); ++c) {
    gap = x[c] - L(row[c]);
    sum = sum + gap * gap;
  }
  return sum;
}

// The same sum over the gaps to a box [2 d].
template <class N, int D>
S4D_HD typename N::L box_distance(const Places<N, D>& x, const typename N::T* box) {
  using L = typename N::L;
  L sum(0);
  for (int c = 0; c < x.dims(); ++c) {
    L gap = max(max(L(box[c]) - x[c], x[c] - L(box[x.dims() + c])), L(0));
    sum = c ? sum + gap * gap : gap * gap;
  }
  return sum;
}

template <class N, int D, bool ASCENDING>
class Packet {
  using T = typename N::T;
  using L = typename N::L;

 public:
  explicit Packet(const NearestTask<T>& task)
      : task_(task), tree_(*task.tree), queries_(task.scratch), squares_(queries_ + task.num_dims * N::W),
        ids_(squares_ + task.num * N::W), bounds_(ids_ + task.num * N::W) {}

  void search(const int32_t* order, int64_t count) {
    load(order, count);
    walk();
    write(order, count);
  }

 private:
  void load(const int32_t* order, int64_t count) {
    for (int lane = 0; lane < N::W; ++lane) {
      const T* query = task_.queries + static_cast<int64_t>(order[lane < count ? lane : count - 1]) * task_.num_dims;
      for (int c = 0; c < task_.num_dims; ++c) queries_[c * N::W + lane] = query[c];
    }
    for (int j = 0; j < task_.num; ++j) {
      N::store(squares_ + j * N::W, L(__builtin_inff()));
      N::store(ids_ + j * N::W, L(lane_id(-1, T())));
    }
    worst_ = L(__builtin_inff());
  }

  void walk() {
    int nodes[s4d::MAX_DEPTH], size = 0, node = 0;
    for (;;) {
      const TreeNode at = tree_.nodes[node];
      if (at.count) {
        scan(at.first, at.first + at.count);
      } else {
        int near = node + 1, far = at.right;
        L to_near = bound(near), to_far = bound(far);
        if (2 * __builtin_popcount(bits(to_near <= to_far)) < N::W) {
          swap(near, far);
          swap(to_near, to_far);
        }
        if (any(to_far <= worst_)) push(nodes, size, far, to_far);
        if (any(to_near <= worst_)) push(nodes, size, near, to_near);
      }
      do {
        if (!size) return;
        --size;
      } while (!any(N::load(bounds_ + size * N::W) <= worst_));
      node = nodes[size];
    }
  }

  template <class X>
  S4D_HD static void swap(X& a, X& b) {
    X c = a;
    a = b;
    b = c;
  }

  S4D_HD void push(int* nodes, int& size, int node, L to_node) {
    N::store(bounds_ + size * N::W, to_node);
    nodes[size++] = node;
  }

  S4D_HD L bound(int node) const {
    return box_distance(Places<N, D>(queries_, task_.num_dims), tree_.boxes + int64_t{2} * node * task_.num_dims);
  }

  S4D_HD bool may_enter(L square) const {
    if constexpr (ASCENDING) return any(square < worst_);
    return any(square <= worst_);
  }

  void scan(int64_t row, int64_t end) {
    const Places<N, D> x(queries_, task_.num_dims);
    const int dims = x.dims();
    for (; row + 4 <= end; row += 4) {
      const T* at = tree_.rows + row * dims;
      L a = distance(x, at), b = distance(x, at + dims), c = distance(x, at + 2 * dims), d = distance(x, at + 3 * dims);
      if (!may_enter(min(min(a, b), min(c, d)))) continue;
      insert(a, row);
      insert(b, row + 1);
      insert(c, row + 2);
      insert(d, row + 3);
    }
    for (; row < end; ++row) insert(distance(x, tree_.rows + row * dims), row);
  }

  S4D_HD void insert(L square, int64_t row) {
    if (!may_enter(square)) return;
    L id(tree_.ids[row]);
    // From the last to the first: each takes its forerunner where the row comes before that one too.
    L last = N::load(squares_ + (task_.num - 1) * N::W), last_id = N::load(ids_ + (task_.num - 1) * N::W);
    auto before_last = before(square, last, id, last_id);
    for (int j = task_.num - 1; j > 0; --j) {
      L other = N::load(squares_ + (j - 1) * N::W), other_id = N::load(ids_ + (j - 1) * N::W);
      auto before_other = before(square, other, id, other_id);
      place(j, select(before_other, other, select(before_last, square, last)),
            select(before_other, other_id, select(before_last, id, last_id)));
      last = other;
      last_id = other_id;
      before_last = before_other;
    }
    place(0, select(before_last, square, last), select(before_last, id, last_id));
    worst_ = N::load(squares_ + (task_.num - 1) * N::W);
  }

  S4D_HD static auto before(L a, L b, L i, L j) {
    if constexpr (ASCENDING)
      return a < b;
    else
      return comes_before(a, b, i, j);
  }

  S4D_HD void place(int j, L square, L id) {
    N::store(squares_ + j * N::W, square);
    N::store(ids_ + j * N::W, id);
  }

  void write(const int32_t* order, int64_t count) const {
    for (int lane = 0; lane < count; ++lane) {
      int64_t at = static_cast<int64_t>(order[lane]) * task_.num;
      for (int j = 0; j < task_.num; ++j) {
        task_.squares[at + j] = squares_[j * N::W + lane];
        task_.index[at + j] = row_of(ids_[j * N::W + lane]);
      }
    }
  }

  const NearestTask<T>& task_;
  const RowTree<T>& tree_;
  T *queries_, *squares_, *ids_, *bounds_;
  L worst_;
};

template <class N, int D, bool ASCENDING>
void nearest_of(const NearestTask<typename N::T>& task) {
  Packet<N, D, ASCENDING> packet(task);
  for (int64_t i = 0; i < task.count; i += N::W)
    packet.search(task.order + i, task.count - i < N::W ? task.count - i : N::W);
}

template <class N>
void nearest_any(const NearestTask<typename N::T>& task) {
  if (task.num_dims == 3)
    task.ascending ? nearest_of<N, 3, true>(task) : nearest_of<N, 3, false>(task);
  else
    task.ascending ? nearest_of<N, 0, true>(task) : nearest_of<N, 0, false>(task);
}

// The largest value so far and the lowest row that has it, lane by lane.
template <class N>
struct Farthest {
  using T = typename N::T;
  using L = typename N::L;
  L gap{T(-1)}, id{lane_id(-1, T())};

  S4D_HD void add(L other, L other_id) {
    auto better = comes_before(-other, -gap, other_id, id);
    gap = select(better, other, gap);
    id = select(better, other_id, id);
  }

  S4D_HD void reduce(T& top, T& top_id) const {
    T gaps[N::W], ids[N::W];
    N::store(gaps, gap);
    N::store(ids, id);
    top = gaps[0];
    top_id = ids[0];
    for (int i = 1; i < N::W; ++i) {
      bool better = gaps[i] > top || (gaps[i] == top && ids[i] < top_id);
      top = better ? gaps[i] : top;
      top_id = better ? ids[i] : top_id;
    }
  }
};

template <class N, int D>
S4D_HD void update_block(const FarthestTask<typename N::T>& t, int64_t block, const typename N::T* chosen) {
  using L = typename N::L;
  Farthest<N> best;
  auto* gaps = t.gaps + block * ROW_BLOCK;
  const auto *rows = t.blocks + block * ROW_BLOCK * t.num_dims, *ids = t.ids + block * ROW_BLOCK;
  for (int i = 0; i < ROW_BLOCK; i += N::W) {
    L away = N::load(rows + i) - L(chosen[0]), sum = away * away;
    for (int c = 1; c < (D ? D : t.num_dims); ++c) {
      away = N::load(rows + c * ROW_BLOCK + i) - L(chosen[c]);
      sum = sum + away * away;
    }
    L gap = min(N::load(gaps + i), sum);
    N::store(gaps + i, gap);
    best.add(gap, N::load(ids + i));
  }
  best.reduce(t.top[block], t.top_ids[block]);
}

template <class N, int D>
void farthest_of(const FarthestTask<typename N::T>& t) {
  using T = typename N::T;
  using L = typename N::L;
  int64_t row = t.start;
  T square = __builtin_inff();
  for (int64_t i = 0; i < t.num; ++i) {
    t.index[i] = row;
    t.squares[i] = row < 0 ? T(0) : square;
    if (row < 0) continue;
    const T* chosen = t.points + row * t.num_dims;
    t.gaps[t.places[row]] = T(-1);
    Farthest<N> best;
    for (int64_t block = 0; block < t.num_blocks; block += N::W) {
      L sum(0);
      for (int c = 0; c < (D ? D : t.num_dims); ++c) {
        L at(chosen[c]), low = N::load(t.boxes + c * t.num_blocks + block);
        L high = N::load(t.boxes + (t.num_dims + c) * t.num_blocks + block);
        L gap = max(max(low - at, at - high), L(0));
        sum = c ? sum + gap * gap : gap * gap;
      }
      // A box farther than its largest gap has nothing to change; equal ones may hold the row just chosen.
      unsigned touched = bits(sum <= N::load(t.top + block));
      for (; touched; touched &= touched - 1) update_block<N, D>(t, block + __builtin_ctz(touched), chosen);
      best.add(N::load(t.top + block), N::load(t.top_ids + block));
    }
    T id;
    best.reduce(square, id);
    row = square < 0 ? -1 : row_of(id);
  }
}

}  // namespace

void nearest_float(const NearestTask<float>& task) { nearest_any<Floats>(task); }

void farthest_float(const FarthestTask<float>& task) {
  task.num_dims == 3 ? farthest_of<Floats, 3>(task) : farthest_of<Floats, 0>(task);
}

#ifdef S4D_DOUBLES
void nearest_double(const NearestTask<double>& task) { nearest_any<Doubles>(task); }
void farthest_double(const FarthestTask<double>& task) { farthest_of<Doubles, 0>(task); }
#endif

}  // namespace S4D_NS
