// Reading activations under k x k kernels: images are first laid out as zero-padded planes, a few at a time,
// so that what a tap reads of an output row lies side by side and no tap has to look for the edge.
//
// A row of a plane is cut by the horizontal stride: all columns 0, s, 2s, ... come first, then 1, s + 1, ...
#pragma once

#include "pack.hpp"

namespace AMC_ISA {

constexpr int64_t PLANES = 1 << 17;  // floats at a time, half a megabyte: they stay in the second-level cache

struct Planes {
  int64_t phase, row, plane, image;  // floats in each
  const float *at = nullptr;

  explicit Planes(const amc_call &c) {
    phase = (c.width + 2 * c.pad_w + c.stride_w - 1) / c.stride_w;
    row = phase * c.stride_w;
    plane = row * (c.height + 2 * c.pad_h);
    image = plane * c.channels;
  }
  int64_t tap(const amc_call &c, int64_t ky, int64_t kx) const {
    const int64_t x = kx * c.dilation_w;
    return ky * c.dilation_h * row + x % c.stride_w * phase + x / c.stride_w;
  }
  int64_t column(const amc_call &c, const Run &run) const {
    return run.image * image + run.oy * c.stride_h * row + run.ox;
  }
};

// The pixels 0, stride_w, ... of an image row, `count` of them, into each channel's plane: squares are transposed.
inline void spread(const amc_call &c, const float *from, int64_t count, int64_t plane, float *to) {
  const int64_t step = c.stride_w * c.x_stride[3];
  for (int64_t i = 0; i < count; i += LANES) {
    const int wide = static_cast<int>(std::min<int64_t>(LANES, count - i));
    for (int64_t k = 0; k < c.channels; k += LANES) {
      const int deep = static_cast<int>(std::min<int64_t>(LANES, c.channels - k));
      vec square[LANES];
      AMC_UNROLL
      for (int j = 0; j < LANES; j++) {
        const float *pixel = from + (i + std::min(j, wide - 1)) * step + k;
        square[j] = deep == LANES ? load_any(pixel) : load_part(pixel, deep);
      }
      transpose(square);
      float *row = to + k * plane + i;
      for (int j = 0; j < deep; j++, row += plane)
        wide == LANES ? store_any(row, square[j]) : store_part(row, square[j], wide);
    }
  }
}

// Where the pixels of one phase begin: in the image, and in a padded row.
struct Phase {
  int64_t x, place, count;

  Phase(const amc_call &c, const Planes &planes, int64_t phase) {
    const int64_t inside = std::max<int64_t>(0, (c.pad_w - phase + c.stride_w - 1) / c.stride_w);
    x = inside * c.stride_w + phase - c.pad_w;
    place = phase * planes.phase + inside;
    count = std::max<int64_t>(0, (c.width - x + c.stride_w - 1) / c.stride_w);
  }
};

inline void fill_planes(const amc_call &c, const Planes &planes, int64_t image, float *to) {
  const float *from = c.x + image * c.x_stride[0];
  if (c.x_stride[1] == 1 && c.x_stride[3] != 1) {
    fill_zero(to, planes.image);
    for (int64_t p = 0; p < c.stride_w; p++) {
      const Phase phase(c, planes, p);
      for (int64_t y = 0; y < c.height; y++)
        spread(c, from + y * c.x_stride[2] + phase.x * c.x_stride[3], phase.count, planes.plane,
               to + (y + c.pad_h) * planes.row + phase.place);
    }
    return;
  }
  for (int64_t k = 0; k < c.channels; k++, from += c.x_stride[1], to += planes.plane) {
    fill_zero(to, planes.plane);
    for (int64_t p = 0; p < c.stride_w; p++) {
      const Phase phase(c, planes, p);
      for (int64_t y = 0; y < c.height; y++)
        copy(to + (y + c.pad_h) * planes.row + phase.place, from + y * c.x_stride[2] + phase.x * c.x_stride[3],
             c.stride_w * c.x_stride[3], phase.count);
    }
  }
}

template <int WIDE>
AMC_INLINE void move(const float *from, float *to) {
  if constexpr (WIDE == LANES)
    store_any(to, load_any(from));
  else
    *reinterpret_cast<loose_half *>(to) = *reinterpret_cast<const loose_half *>(from);
}

// What a row of a panel is copied from: WIDE floats from each of these places, in this order. Whole vectors
// are written, as far as the row's V vectors reach: what is too much is overwritten by the next move, or lies
// beyond the last column.
template <int V, int WIDE>
struct Moves {
  const float *from[2 * V * LANES];
  int at[2 * V * LANES], size = 0, whole;

  Moves(const amc_call &c, const Planes &planes, const Columns &columns) {
    for (int r = 0; r < columns.size; r++) {
      const Run &run = columns.runs[r];
      for (int i = 0; i < run.count; i += WIDE) {
        from[size] = planes.at + planes.column(c, run) + i;
        at[size++] = run.at + i;
      }
    }
    for (whole = size; whole > 0 && at[whole - 1] + WIDE > V * LANES;) whole--;
  }
  // V vectors side by side.
  bool even() const { return WIDE == LANES && size == V && at[V - 1] == (V - 1) * LANES; }

  AMC_INLINE void row(int64_t offset, float *to) const {
    for (int m = 0; m < whole; m++) move<WIDE>(from[m] + offset, to + at[m]);
    for (int m = whole; m < size; m++) {
      const int count = V * LANES - at[m];
      store_part(to + at[m], load_part(from[m] + offset, count), count);
    }
  }
  AMC_INLINE void even_row(int64_t offset, float *to) const {
    AMC_UNROLL
    for (int j = 0; j < V; j++) store(to + j * LANES, load_any(from[j] + offset));
  }
};

constexpr int MOST_TAPS = 64;  // of a block whose channels are copied one by one

// Depth [from, from + deep) of a panel; depth runs over taps, then over channels padded to `unit`.
template <int V, int STRIDE, bool EVEN, int WIDE>
void copy_planes(const amc_call &c, const Planes &planes, const Moves<V, WIDE> &moves, bool spare, int64_t from,
                 int64_t deep, int64_t padded, float *to) {
  const auto copy_row = [&](int64_t offset, float *row) {
    if (spare) store(row + (V - 1) * LANES, vec{});
    EVEN ? moves.even_row(offset, row) : moves.row(offset, row);
  };
  const int64_t first_tap = from / padded, taps = (from + deep - 1) / padded - first_tap + 1;
  int64_t offsets[MOST_TAPS];
  // Channel by channel where there are several taps: what they read overlaps.
  if (taps > 1 && taps <= MOST_TAPS) {
    for (int64_t t = 0; t < taps; t++)
      offsets[t] = planes.tap(c, (first_tap + t) / c.kernel_w, (first_tap + t) % c.kernel_w);
    for (int64_t channel = 0; channel < padded; channel++) {
      int64_t k = first_tap * padded + channel - from;
      for (int64_t t = 0; t < taps; t++, k += padded) {
        if (k < 0 || k >= deep) continue;
        if (channel < c.channels)
          copy_row(channel * planes.plane + offsets[t], to + k * STRIDE);
        else
          fill_zero(to + k * STRIDE, V * LANES);
      }
    }
    return;
  }
  for (int64_t k = from; k < from + deep;) {
    const int64_t tap = k / padded, channel = k % padded;
    const int64_t end = std::min(padded, channel + from + deep - k);
    int64_t offset = channel * planes.plane + planes.tap(c, tap / c.kernel_w, tap % c.kernel_w);
    int64_t row = channel;
    for (; row < std::min(end, c.channels); row++, to += STRIDE, offset += planes.plane) copy_row(offset, to);
    for (; row < end; row++, to += STRIDE) fill_zero(to, V * LANES);
    k += end - channel;
  }
}

template <int V, int STRIDE>
void pack_planes(const View &view, const Planes &planes, const Columns &columns, int64_t from, int64_t deep,
                 int64_t unit, float *to) {
  const amc_call &c = view.call;
  const int64_t padded = (c.channels + unit - 1) / unit * unit;
  const bool spare = columns.count < V * LANES;
  int longest = 0;
  for (int r = 0; r < columns.size; r++) longest = std::max(longest, columns.runs[r].count);
  if (longest <= LANES / 2) {
    const Moves<V, LANES / 2> moves(c, planes, columns);
    copy_planes<V, STRIDE, false>(c, planes, moves, spare, from, deep, padded, to);
    return;
  }
  const Moves<V, LANES> moves(c, planes, columns);
  if (moves.even())
    copy_planes<V, STRIDE, true>(c, planes, moves, spare, from, deep, padded, to);
  else
    copy_planes<V, STRIDE, false>(c, planes, moves, spare, from, deep, padded, to);
}

}  // namespace AMC_ISA
