// Writing a finished tile [rows][STRIDE] to where its columns lie in Y.
#pragma once

#include "pack.hpp"

namespace AMC_ISA {

// Output channels that lie side by side: squares are transposed on the way.
template <int V, int STRIDE>
void store_channels(const View &view, const Columns &columns, int64_t first_row, int64_t last_row,
                    const float *tile) {
  const amc_call &c = view.call;
  float *pixels[V * LANES];
  for (int r = 0; r < columns.size; r++) {
    const Run &run = columns.runs[r];
    for (int i = 0; i < run.count; i++)
      pixels[run.at + i] = Columns::y_at(view, run) + i * c.y_stride[3];
  }
  for (int64_t row = first_row; row < last_row; row += LANES) {
    const int deep = static_cast<int>(std::min<int64_t>(LANES, last_row - row));
    for (int j = 0; j < V; j++) {
      vec square[LANES];
      AMC_UNROLL
      for (int i = 0; i < LANES; i++)
        square[i] = load(tile + (row - first_row + i) * STRIDE + j * LANES);
      transpose(square);
      const int wide = std::min(LANES, columns.count - j * LANES);
      if (deep == LANES && wide == LANES) {
        AMC_UNROLL
        for (int i = 0; i < LANES; i++) store_any(pixels[j * LANES + i] + row, square[i]);
      } else {
        for (int i = 0; i < wide; i++) store_part(pixels[j * LANES + i] + row, square[i], deep);
      }
    }
  }
}

template <int V, int STRIDE>
void store_tile(const View &view, const Columns &columns, int64_t first_row, int64_t last_row,
                const float *tile) {
  const amc_call &c = view.call;
  if (c.y_stride[1] == 1 && c.y_stride[3] != 1) {
    store_channels<V, STRIDE>(view, columns, first_row, last_row, tile);
    return;
  }
  for (int64_t row = first_row; row < last_row; row++, tile += STRIDE)
    for (int r = 0; r < columns.size; r++) {
      const Run &run = columns.runs[r];
      float *y = Columns::y_at(view, run) + row * c.y_stride[1];
      if (c.y_stride[3] == 1)
        copy(y, tile + run.at, 1, run.count);
      else
        for (int i = 0; i < run.count; i++) y[i * c.y_stride[3]] = tile[run.at + i];
    }
}

}  // namespace AMC_ISA
