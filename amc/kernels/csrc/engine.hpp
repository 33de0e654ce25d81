// What all families share: cutting a product into panels of columns and blocks of depth, and running
// a family's rows over them.
//
// A panel is V vectors of columns wide. The piece of X that one block of depth reads is packed row after
// row, `Family::stride(V)` floats apart, and stays in cache while all rows of W pass over it.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "amc_kernels.h"
#include "pack.hpp"
#include "planes.hpp"
#include "tile.hpp"
#include "vectors.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace AMC_ISA {

// Where the rows of one panel go, and what is done to them on the way.
struct Target {
  float *y;            // the panel's first column of row 0
  int64_t row_stride;  // floats
  int tail;            // columns in the last vector
  const float *bias;   // of row 0, or null
  bool first, last;    // first: nothing is there yet; last: nothing comes after, so `relu` applies
  bool relu;
};

template <int V>
AMC_INLINE void begin_row(vec *sums, const Target &to, int64_t row) {
  const float start = to.first && to.bias ? to.bias[row] : 0.0f;
  AMC_UNROLL
  for (int j = 0; j < V; j++) sums[j] = all(start);
}

template <int V>
AMC_INLINE void end_row(const vec *sums, const Target &to, int64_t row) {
  float *y = to.y + row * to.row_stride;
  AMC_UNROLL
  for (int j = 0; j < V; j++) {
    const bool whole = j < V - 1 || to.tail == LANES;
    vec sum = sums[j];
    if (!to.first) sum += whole ? load_any(y + j * LANES) : load_part(y + j * LANES, to.tail);
    if (to.last && to.relu) sum = relu(sum);
    if (whole)
      store_any(y + j * LANES, sum);
    else
      store_part(y + j * LANES, sum, to.tail);
  }
}

// A thread's share of the product.
struct Share {
  int64_t first_panel, last_panel, first_row, last_row;
};

struct Cut {
  int64_t columns, panels;
  int widest;  // vectors of the widest panel

  Cut(int64_t columns_, int most_vectors) : columns(columns_) {
    const int64_t vectors = (columns + LANES - 1) / LANES;
    panels = (vectors + most_vectors - 1) / most_vectors;
    widest = static_cast<int>((vectors + panels - 1) / panels);
  }
  int64_t begin(int64_t panel) const {  // in columns; panels differ by at most one vector
    const int64_t vectors = (columns + LANES - 1) / LANES;
    return std::min(columns, panel * vectors / panels * LANES);
  }
};

inline Share share_of(const Cut &cut, int64_t rows, int64_t unit, int64_t thread, int64_t threads) {
  // Many panels: nobody packs what another one packs too. Few panels are split by rows: side by side in
  // a row of Y, two threads would write to the same cache lines.
  if (cut.panels >= 4 * threads || rows < 2 * unit)
    return {thread * cut.panels / threads, (thread + 1) * cut.panels / threads, 0, rows};
  const int64_t units = (rows + unit - 1) / unit;
  return {0, cut.panels, thread * units / threads * unit,
          std::min(rows, (thread + 1) * units / threads * unit)};
}

// Blocks whose piece of X is packed and passed over together: narrow panels take several.
constexpr int64_t MOST_BLOCKS = 16, CACHED = 8192;  // CACHED: floats, 32 KiB, about a first-level cache
inline int64_t blocks_at_once(int64_t block, int64_t stride) {
  return std::clamp<int64_t>(CACHED / (block * stride), 1, MOST_BLOCKS);
}

template <class Family, int V>
void run_panel(const amc_weight &w, const View &view, const Planes *planes, const Cut &cut, int64_t panel, const Share &share,
               float *packed, float *tile) {
  constexpr int STRIDE = Family::stride(V);
  const amc_call &call = view.call;
  const int64_t begin = cut.begin(panel), count = cut.begin(panel + 1) - begin;
  const Columns columns(view, begin, count);
  Target to{};
  to.tail = static_cast<int>(count - (V - 1) * LANES);
  to.bias = call.bias;
  to.relu = call.relu != 0;
  const bool direct = columns.adjacent_in_y(view);
  if (direct) {
    to.y = columns.y_of(view);
    to.row_stride = call.y_stride[1];
  } else {
    to.y = tile - share.first_row * STRIDE;
    to.row_stride = STRIDE;
    to.tail = LANES;
  }
  const int64_t blocks = std::max<int64_t>(1, (w.depth + w.block - 1) / w.block);
  const int64_t together = blocks_at_once(w.block, STRIDE);
  for (int64_t block = 0; block < blocks; block += together) {
    const int64_t from = block * w.block, end = std::min(blocks, block + together);
    const int64_t deep = std::min(end * w.block, w.depth) - from;
    if (planes)
      pack_planes<V, STRIDE>(view, *planes, columns, from, deep, Family::CHANNEL_UNIT, packed);
    else
      pack_pointwise<V, STRIDE>(view, columns, from, deep, packed);
    to.first = block == 0;
    to.last = end == blocks;
    Family::template rows<V>(w, call.rows, block, end, share.first_row, share.last_row, packed, to);
  }
  if (!direct)
    store_tile<V, STRIDE>(view, columns, share.first_row, share.last_row, tile);
}

template <class Family>
void run_share(const amc_weight &w, const View &view, const Planes *planes, const Cut &cut, const Share &share, float *packed,
               float *tile) {
  for (int64_t panel = share.first_panel; panel < share.last_panel; panel++) {
    const int64_t count = cut.begin(panel + 1) - cut.begin(panel);
    switch ((count + LANES - 1) / LANES) {
#define AMC_CASE(V) \
  case V:           \
    run_panel<Family, V>(w, view, planes, cut, panel, share, packed, tile); \
    break;
      AMC_CASE(1) AMC_CASE(2) AMC_CASE(3) AMC_CASE(4) AMC_CASE(5) AMC_CASE(6) AMC_CASE(7) AMC_CASE(8)
#undef AMC_CASE
    }
  }
}

// Memory of one call, aligned for vectors, kept by the calling thread for the next one.
class Scratch {
 public:
  float *take(size_t floats) {
    if (floats > size_) {
      if (floats > SIZE_MAX / 8) return nullptr;
      std::free(memory_);
      memory_ = nullptr;
      size_ = (floats + 1023) / 1024 * 1024;
      memory_ = static_cast<float *>(std::aligned_alloc(4096, size_ * sizeof(float)));
      if (!memory_) size_ = 0;
    }
    return memory_;
  }
  ~Scratch() { std::free(memory_); }

 private:
  float *memory_ = nullptr;
  size_t size_ = 0;
};

// Shared by all families: a network that mixes them would else fill the caches with their scratch.
inline Scratch &panel_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}
inline Scratch &plane_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

inline int64_t whole_pages(int64_t floats) { return (floats + 1023) / 1024 * 1024; }

template <class Family>
int multiply_view(const amc_weight &w, const View &view, const Planes *planes) {
  const amc_call &call = view.call;
  const Cut cut(view.columns(), Family::most_vectors(w));
  if (!cut.columns || !call.rows) return AMC_OK;
  const int stride = Family::stride(cut.widest);
  const int64_t threads = std::max<int64_t>(1, call.threads);
  const int64_t padded_rows = (call.rows + 15) / 16 * 16;
  // Narrower panels have more blocks at once, but no more floats.
  const int64_t packed = whole_pages(std::max(w.block * stride, CACHED) + LANES);
  const int64_t tile = whole_pages(padded_rows * stride);
  float *memory = panel_scratch().take(static_cast<size_t>(threads * (packed + tile)));
  if (!memory) return AMC_NO_MEMORY;
#ifdef _OPENMP
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static, 1) if (threads > 1)
#endif
  for (int64_t thread = 0; thread < threads; thread++) {
    float *mine = memory + thread * (packed + tile);
    run_share<Family>(w, view, planes, cut, share_of(cut, call.rows, Family::ROW_UNIT, thread, threads), mine,
                      mine + packed);
  }
  return AMC_OK;
}

template <class Family>
int multiply(const amc_weight *w, const amc_call *call) {
  if (w->block < 1 || w->depth < 0 || call->threads < 1) return AMC_BAD_CALL;
  const View view(*call);
  if (view.pointwise) return multiply_view<Family>(*w, view, nullptr);
  Planes planes(*call);
  const int64_t group = std::clamp<int64_t>(PLANES / std::max<int64_t>(planes.image, 1), 1,
                                            std::max<int64_t>(call->batch, 1));
  float *memory = plane_scratch().take(static_cast<size_t>(planes.image * group + 2 * LANES));
  if (!memory) return AMC_NO_MEMORY;
  fill_zero(memory + planes.image * group, 2 * LANES);
  planes.at = memory;
  for (int64_t begin = 0; begin < call->batch; begin += group) {
    amc_call part = *call;
    part.batch = std::min(group, call->batch - begin);
    part.x = call->x + begin * call->x_stride[0];
    part.y = call->y + begin * call->y_stride[0];
#ifdef _OPENMP
#pragma omp parallel for num_threads(static_cast<int>(call->threads)) if (call->threads > 1)
#endif
    for (int64_t image = 0; image < part.batch; image++)
      fill_planes(part, planes, image, memory + image * planes.image);
    const int code = multiply_view<Family>(*w, View(part), &planes);
    if (code) return code;
  }
  return AMC_OK;
}

}  // namespace AMC_ISA
