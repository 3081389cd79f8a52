// The part of the native interface (see ops.h) that knows no Gaussians: farthest points and k nearest rows. Arrays are
// dense and row major, float32, or float64 where NeighbourOptions says so.
#pragma once

#include "ops.h"

namespace s4d {

struct NeighbourOptions {
  int64_t num_sets;     // b
  int64_t num_dims;     // d, at least 1
  int is_double;        // 1: every `void*` below is double, not float
  int spatial;          // 1: rows in spatial order with boxes to skip by; 0: plain scans; -1: what is faster; same bits
  int num_threads;      // 1 = no parallel region at all
  int instruction_set;  // as RasterOptions; the same bits from all
};

// A row with mask 0, or with a coordinate that is not finite, does not exist: it is never found and finds nothing.
struct RowSets {
  const void* rows;     // [b n d]
  const uint8_t* mask;  // [b n] or null: all
  int64_t num_rows;     // n
};

// The `num` rows of each set that lie farthest from those chosen before them, beginning with `start` [b] (where that
// row does not exist: with the first that does). Ties go to the lowest row. `index` [b num]: -1 once no row is left;
// `squares` [b num]: squared distance to the rows chosen before, infinite for the first, 0 where there is none.
int farthest_points(const NeighbourOptions&, const RowSets& points, const int64_t* start, int64_t num, int64_t* index,
                    void* squares);

// The `num` nearest points of each query, nearest first, ties by row: `squares` and `index` [b q num], infinite and -1
// where there are too few.
int nearest(const NeighbourOptions&, const RowSets& points, const RowSets& queries, int64_t num, void* squares,
            int64_t* index);

// The same on a GPU, to the same bits; all addresses are of device memory. Nothing waits, nothing is allocated.
struct CudaPlace {
  int device;
  void* stream;
};

constexpr int64_t CUDA_MAX_DIMS = 3072;

// `gaps` [b n] is working memory of the type of the points.
int cuda_farthest_points(const NeighbourOptions&, const RowSets& points, const int64_t* start, int64_t num,
                         int64_t* index, void* squares, void* gaps, const CudaPlace&);

int cuda_nearest(const NeighbourOptions&, const RowSets& points, const RowSets& queries, int64_t num, void* squares,
                 int64_t* index, const CudaPlace&);

}  // namespace s4d
