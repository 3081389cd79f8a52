// Farthest points and nearest rows on the GPU. Distances are summed as on the CPU, without fused multiplication, so the
// same rows are chosen to the last tie.
#include "../neighbours.h"

#include <cstring>

#include "device.h"
#include "ops_cuda.h"

namespace s4d_cuda {
namespace {

constexpr int FARTHEST_THREADS = 1024;
constexpr int HELD_ROWS = 8;  // rows a thread can hold in registers: sets of up to 8192 points stay there
constexpr int NEAREST_THREADS = 128;
constexpr int TILE_NUMBERS = static_cast<int>(s4d::CUDA_MAX_DIMS);

// A sum of products that the compiler must not fuse.
S4D_DEVICE float add_square(float sum, float x) {
#if defined(__CUDACC__)
  return __fadd_rn(sum, __fmul_rn(x, x));
#else
  return sum + x * x;
#endif
}
S4D_DEVICE double add_square(double sum, double x) {
#if defined(__CUDACC__)
  return __dadd_rn(sum, __dmul_rn(x, x));
#else
  return sum + x * x;
#endif
}

template <class T>
S4D_DEVICE T infinity() {
  return static_cast<T>(HUGE_VALF);
}

template <class T>
S4D_DEVICE bool row_exists(const T* row, const uint8_t* mask, int64_t at, int num_dims) {
  T zero = 0;  // stays 0, or becomes NaN
  for (int c = 0; c < num_dims; ++c) zero += row[c] * T(0);
  return (!mask || mask[at]) && zero == T(0);
}

template <class T, int D>
S4D_DEVICE T square_between(const T* a, const T* b, int num_dims) {
  T sum = 0;
  for (int c = 0; c < (D ? D : num_dims); ++c) sum = add_square(sum, a[c] - b[c]);
  return sum;
}

template <class T>
S4D_DEVICE T shuffle_xor(T x, int step) {
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &x, sizeof(T));
  for (uint32_t& word : words) word = __shfl_xor_sync(FULL_WARP, word, step);
  memcpy(&x, words, sizeof(T));
  return x;
}

// The largest gap, and the lowest row that has it.
template <class T>
struct Farthest {
  T gap = -1;
  int row = -1;

  S4D_DEVICE void add(T other, int other_row) {
    bool better = other > gap || (other == gap && other_row < row);
    gap = better ? other : gap;
    row = better ? other_row : row;
  }

  S4D_DEVICE void reduce_warp() {
    for (int step = WARP / 2; step > 0; step /= 2) {
      T other = shuffle_xor(gap, step);
      int other_row = shuffle_xor(row, step);
      add(other, other_row);
    }
  }
};

// Two turns, so that one barrier a turn is enough: nobody writes what another may still read.
template <class T>
struct FarthestShared {
  T gaps[2][WARP];
  int rows[2][WARP];
};

template <class T>
S4D_DEVICE void reduce_block(Farthest<T>& best, FarthestShared<T>& shared, int64_t turn) {
  best.reduce_warp();
  int side = static_cast<int>(turn & 1);
  if (lane_index() == 0) {
    shared.gaps[side][warp_index()] = best.gap;
    shared.rows[side][warp_index()] = best.row;
  }
  __syncthreads();
  best = Farthest<T>();
  int warp = lane_index();
  if (warp < FARTHEST_THREADS / WARP) best.add(shared.gaps[side][warp], shared.rows[side][warp]);
  best.reduce_warp();
}

template <class T>
struct FarthestScene {
  const T* points;
  const uint8_t* mask;
  const int64_t* start;
  int64_t* index;
  T *squares, *gaps;
  int num_rows, num_dims;
  int64_t num;
};

// Rows of this thread, every FARTHEST_THREADS-th of the set: in registers, or (HELD = 0) in global memory.
template <class T, int D, int HELD>
class OwnRows {
 public:
  S4D_DEVICE OwnRows(const FarthestScene<T>& scene, int set)
      : scene_(scene), points_(scene.points + int64_t{set} * scene.num_rows * scene.num_dims),
        gaps_(scene.gaps + int64_t{set} * scene.num_rows) {
    const uint8_t* mask = scene.mask ? scene.mask + int64_t{set} * scene.num_rows : nullptr;
    S4D_UNROLL for (int i = 0; i < HELD; ++i) {
      int row = row_of(i);
      bool exists = row < scene.num_rows && row_exists(points_ + int64_t{row} * D, mask, row, D);
      for (int c = 0; c < D; ++c) places_[i * D + c] = exists ? points_[int64_t{row} * D + c] : T(0);
      held_[i] = exists ? infinity<T>() : T(-1);
    }
    for (int row = row_of(0); HELD == 0 && row < scene.num_rows; row += FARTHEST_THREADS) {
      bool exists = row_exists(points_ + int64_t{row} * scene.num_dims, mask, row, scene.num_dims);
      gaps_[row] = exists ? infinity<T>() : T(-1);
    }
  }

  // The first row: `start` where it exists, otherwise the lowest that does.
  S4D_DEVICE Farthest<T> first(int64_t start) {
    Farthest<T> best;
    visit([&](int row, T& gap, const T*) {
      if (gap > 0) best.add(row == start ? T(2) : T(1), row);
    });
    return best;
  }

  // Takes `chosen` out, brings the gaps of the others up to date, and returns the largest.
  S4D_DEVICE Farthest<T> next(int chosen) {
    Farthest<T> best;
    const T* at = points_ + int64_t{chosen} * scene_.num_dims;
    visit([&](int row, T& gap, const T* place) {
      T square = square_between<T, D>(place, at, scene_.num_dims);
      gap = row == chosen ? T(-1) : square < gap ? square : gap;
      best.add(gap, row);
    });
    return best;
  }

 private:
  S4D_DEVICE static int row_of(int i) { return static_cast<int>(threadIdx.x) + i * FARTHEST_THREADS; }

  template <class F>
  S4D_DEVICE void visit(const F& f) {
    S4D_UNROLL for (int i = 0; i < HELD; ++i) f(row_of(i), held_[i], places_ + i * D);
    for (int row = row_of(0); HELD == 0 && row < scene_.num_rows; row += FARTHEST_THREADS)
      f(row, gaps_[row], points_ + int64_t{row} * scene_.num_dims);
  }

  const FarthestScene<T>& scene_;
  const T* points_;
  T* gaps_;
  T places_[HELD * D + 1], held_[HELD + 1];
};

template <class T, int D, int HELD>
__global__ void __launch_bounds__(FARTHEST_THREADS) farthest_kernel(FarthestScene<T> scene) {
  S4D_SHARED(FarthestShared<T>, shared);
  int set = static_cast<int>(blockIdx.x);
  OwnRows<T, D, HELD> rows(scene, set);
  Farthest<T> best = rows.first(scene.start[set]);
  reduce_block(best, shared, 0);
  if (best.gap > 0) best.gap = infinity<T>();
  for (int64_t i = 0; i < scene.num; ++i) {
    bool found = best.gap >= 0;  // the same for all threads
    if (threadIdx.x == 0) {
      scene.index[set * scene.num + i] = found ? best.row : -1;
      scene.squares[set * scene.num + i] = found ? best.gap : T(0);
    }
    if (found) {
      best = rows.next(best.row);
      reduce_block(best, shared, i + 1);
    }
  }
}

template <class T>
struct NearestScene {
  const T *points, *queries;
  const uint8_t *mask, *query_mask;
  T* squares;
  int64_t* index;
  int num_points, num_queries, num_dims, num, blocks_a_set;
};

template <class T>
struct NearestTile {
  T rows[TILE_NUMBERS];
};

// The nearest rows so far, in registers. Rows come in ascending order, so ties keep it.
template <class T, int K>
struct NearestList {
  T squares[K];
  int rows[K];

  S4D_DEVICE NearestList(const NearestScene<T>&, int64_t, bool) {
    S4D_UNROLL for (int j = 0; j < K; ++j) {
      squares[j] = infinity<T>();
      rows[j] = -1;
    }
  }

  S4D_DEVICE T worst() const { return squares[K - 1]; }

  S4D_DEVICE void insert(T square, int row) {
    S4D_UNROLL for (int j = K - 1; j > 0; --j) {
      bool before_other = square < squares[j - 1], before = square < squares[j];
      rows[j] = before_other ? rows[j - 1] : before ? row : rows[j];
      squares[j] = before_other ? squares[j - 1] : before ? square : squares[j];
    }
    rows[0] = square < squares[0] ? row : rows[0];
    squares[0] = square < squares[0] ? square : squares[0];
  }

  S4D_DEVICE void write(const NearestScene<T>& s, int64_t query) const {
    S4D_UNROLL for (int j = 0; j < K; ++j) {
      if (j >= s.num) continue;
      s.squares[query * s.num + j] = squares[j];
      s.index[query * s.num + j] = rows[j];
    }
  }
};

// Any number of them, in the outputs.
template <class T>
struct NearestList<T, 0> {
  T* squares;
  int64_t* rows;
  int num;

  // A thread that has no query must not touch the outputs of the one it stands in for.
  S4D_DEVICE NearestList(const NearestScene<T>& s, int64_t query, bool active)
      : squares(s.squares + query * s.num), rows(s.index + query * s.num), num(s.num) {
    for (int j = 0; active && j < num; ++j) {
      squares[j] = infinity<T>();
      rows[j] = -1;
    }
  }

  S4D_DEVICE T worst() const { return squares[num - 1]; }

  S4D_DEVICE void insert(T square, int row) {
    int j = num - 1;
    for (; j > 0 && square < squares[j - 1]; --j) {
      squares[j] = squares[j - 1];
      rows[j] = rows[j - 1];
    }
    squares[j] = square;
    rows[j] = row;
  }

  S4D_DEVICE void write(const NearestScene<T>&, int64_t) const {}
};

// A thread is a query; the points come past in tiles, where a row that does not exist is infinitely far.
template <class T, int D, int K>
__global__ void __launch_bounds__(NEAREST_THREADS) nearest_kernel(NearestScene<T> s) {
  S4D_SHARED(NearestTile<T>, tile);
  const int num_dims = D ? D : s.num_dims;
  int64_t set = blockIdx.x / s.blocks_a_set;
  int in_set = static_cast<int>(blockIdx.x % s.blocks_a_set) * NEAREST_THREADS + static_cast<int>(threadIdx.x);
  bool active = in_set < s.num_queries;
  int64_t query = set * s.num_queries + (active ? in_set : 0);
  const T* at = s.queries + query * num_dims;
  bool searches = active && row_exists(at, s.query_mask, query, num_dims);
  T place[D ? D : 1];
  for (int c = 0; c < D; ++c) place[c] = at[c];
  if (D) at = place;
  NearestList<T, K> list(s, query, active);
  const int tile_rows = TILE_NUMBERS / num_dims;
  for (int first = 0; first < s.num_points; first += tile_rows) {
    int count = s.num_points - first < tile_rows ? s.num_points - first : tile_rows;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += NEAREST_THREADS) {
      int64_t row = set * s.num_points + first + i;
      bool exists = row_exists(s.points + row * num_dims, s.mask, row, num_dims);
      for (int c = 0; c < num_dims; ++c)
        tile.rows[i * num_dims + c] = exists ? s.points[row * num_dims + c] : infinity<T>();
    }
    __syncthreads();
    for (int i = 0; searches && i < count; ++i) {
      T square = square_between<T, D>(at, tile.rows + i * num_dims, num_dims);
      if (square < list.worst()) list.insert(square, first + i);
    }
    __syncthreads();
  }
  if (active) list.write(s, query);
}

template <class T, int D>
void launch_nearest(const NearestScene<T>& s, int64_t blocks, Stream stream) {
  if (s.num == 1) return launch(nearest_kernel<T, D, 1>, blocks, NEAREST_THREADS, stream, s);
  if (s.num <= 4) return launch(nearest_kernel<T, D, 4>, blocks, NEAREST_THREADS, stream, s);
  if (s.num <= 8) return launch(nearest_kernel<T, D, 8>, blocks, NEAREST_THREADS, stream, s);
  if (s.num <= 16) return launch(nearest_kernel<T, D, 16>, blocks, NEAREST_THREADS, stream, s);
  launch(nearest_kernel<T, D, 0>, blocks, NEAREST_THREADS, stream, s);
}

template <class T>
void nearest_of(const s4d::NeighbourOptions& o, const s4d::RowSets& points, const s4d::RowSets& queries, int64_t num,
                void* squares, int64_t* index, Stream stream) {
  NearestScene<T> s = {static_cast<const T*>(points.rows), static_cast<const T*>(queries.rows), points.mask,
                       queries.mask, static_cast<T*>(squares), index, static_cast<int>(points.num_rows),
                       static_cast<int>(queries.num_rows), static_cast<int>(o.num_dims), static_cast<int>(num), 0};
  s.blocks_a_set = (s.num_queries + NEAREST_THREADS - 1) / NEAREST_THREADS;
  if (!num) return;
  if (o.num_dims == 3)
    launch_nearest<T, 3>(s, o.num_sets * s.blocks_a_set, stream);
  else
    launch_nearest<T, 0>(s, o.num_sets * s.blocks_a_set, stream);
}

template <class T>
void farthest_of(const s4d::NeighbourOptions& o, const s4d::RowSets& points, const int64_t* start, int64_t num,
                 int64_t* index, void* squares, void* gaps, Stream stream) {
  FarthestScene<T> s = {static_cast<const T*>(points.rows), points.mask, start, index, static_cast<T*>(squares),
                        static_cast<T*>(gaps), static_cast<int>(points.num_rows), static_cast<int>(o.num_dims), num};
  if (o.num_dims == 3 && points.num_rows <= HELD_ROWS * FARTHEST_THREADS)
    launch(farthest_kernel<T, 3, HELD_ROWS>, o.num_sets, FARTHEST_THREADS, stream, s);
  else if (o.num_dims == 3)
    launch(farthest_kernel<T, 3, 0>, o.num_sets, FARTHEST_THREADS, stream, s);
  else
    launch(farthest_kernel<T, 0, 0>, o.num_sets, FARTHEST_THREADS, stream, s);
}

}  // namespace
}  // namespace s4d_cuda

namespace s4d {

int cuda_farthest_points(const NeighbourOptions& options, const RowSets& points, const int64_t* start, int64_t num,
                         int64_t* index, void* squares, void* gaps, const CudaPlace& place) {
  s4d_cuda::OnDevice on(place.device);
  if (!on) return CUDA_FAILED;
  auto stream = static_cast<s4d_cuda::Stream>(place.stream);
  if (options.is_double)
    s4d_cuda::farthest_of<double>(options, points, start, num, index, squares, gaps, stream);
  else
    s4d_cuda::farthest_of<float>(options, points, start, num, index, squares, gaps, stream);
  return s4d_cuda::launched() ? CUDA_OK : CUDA_FAILED;
}

int cuda_nearest(const NeighbourOptions& options, const RowSets& points, const RowSets& queries, int64_t num,
                 void* squares, int64_t* index, const CudaPlace& place) {
  s4d_cuda::OnDevice on(place.device);
  if (!on) return CUDA_FAILED;
  auto stream = static_cast<s4d_cuda::Stream>(place.stream);
  if (options.is_double)
    s4d_cuda::nearest_of<double>(options, points, queries, num, squares, index, stream);
  else
    s4d_cuda::nearest_of<float>(options, points, queries, num, squares, index, stream);
  return s4d_cuda::launched() ? CUDA_OK : CUDA_FAILED;
}

}  // namespace s4d
