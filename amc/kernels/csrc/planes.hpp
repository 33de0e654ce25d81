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

// The pixels `first`, first + step, ... of an image row, `count` of them, into each channel's plane.
inline void spread(const amc_call &c, const float *from, int64_t step, int64_t count, int64_t plane, float *to) {
  if (c.x_stride[1] != 1 || c.x_stride[3] == 1) {
    for (int64_t k = 0; k < c.channels; k++, from += c.x_stride[1], to += plane)
      copy(to, from, step * c.x_stride[3], count);
    return;
  }
  for (int64_t i = 0; i < count; i += LANES) {
    const int wide = static_cast<int>(std::min<int64_t>(LANES, count - i));
    for (int64_t k = 0; k < c.channels; k += LANES) {
      const int deep = static_cast<int>(std::min<int64_t>(LANES, c.channels - k));
      vec square[LANES];
      AMC_UNROLL
      for (int j = 0; j < LANES; j++) {
        const float *pixel = from + (i + std::min(j, wide - 1)) * step * c.x_stride[3] + k;
        square[j] = deep == LANES ? load_any(pixel) : load_part(pixel, deep);
      }
      transpose(square);
      float *row = to + k * plane + i;
      for (int j = 0; j < deep; j++, row += plane)
        wide == LANES ? store_any(row, square[j]) : store_part(row, square[j], wide);
    }
  }
}

inline void fill_planes(const amc_call &c, const Planes &planes, int64_t image, float *to) {
  fill_zero(to, planes.image);
  for (int64_t y = 0; y < c.height; y++)
    for (int64_t phase = 0; phase < c.stride_w; phase++) {
      // The first column of this phase inside the image, and its place in the padded row.
      const int64_t place = std::max<int64_t>(0, (c.pad_w - phase + c.stride_w - 1) / c.stride_w);
      const int64_t x = place * c.stride_w + phase - c.pad_w;
      if (x >= c.width) continue;
      spread(c, c.x + image * c.x_stride[0] + y * c.x_stride[2] + x * c.x_stride[3], c.stride_w,
             (c.width - x + c.stride_w - 1) / c.stride_w, planes.plane,
             to + (y + c.pad_h) * planes.row + phase * planes.phase + place);
    }
}

template <int WIDE>
AMC_INLINE void move(const float *from, float *to) {
  if constexpr (WIDE == LANES)
    store_any(to, load_any(from));
  else
    *reinterpret_cast<loose_half *>(to) = *reinterpret_cast<const loose_half *>(from);
}

// One row of a piece of X. Whole vectors are written whatever a run's length: what is too much is overwritten
// by the next run, or row, and at the end there is room for one vector more.
template <int WIDE>
AMC_INLINE void copy_runs(const Columns &columns, const float *const *runs, int64_t offset, float *row) {
  for (int r = 0; r < columns.size; r++) {
    const float *from = runs[r] + offset;
    float *to = row + columns.runs[r].at;
    const int count = columns.runs[r].count;
    move<WIDE>(from, to);
    for (int i = WIDE; i < count; i += WIDE) move<WIDE>(from + i, to + i);
  }
}

// Depth [from, from + deep) of a panel; depth runs over taps, then over channels padded to `unit`.
template <int V>
void pack_planes(const View &view, const Planes &planes, const Columns &columns, int64_t from, int64_t deep,
                 int64_t unit, float *to) {
  const amc_call &c = view.call;
  const int64_t padded = (c.channels + unit - 1) / unit * unit;
  const float *runs[V * LANES];
  int longest = 0;
  for (int r = 0; r < columns.size; r++) {
    runs[r] = planes.at + planes.column(c, columns.runs[r]);
    longest = std::max(longest, columns.runs[r].count);
  }
  const bool spare = columns.count < V * LANES;
  for (int64_t k = from; k < from + deep;) {
    const int64_t tap = k / padded, channel = k % padded;
    const int64_t end = std::min(padded, channel + from + deep - k);
    int64_t offset = channel * planes.plane + planes.tap(c, tap / c.kernel_w, tap % c.kernel_w);
    int64_t row = channel;
    for (; row < std::min(end, c.channels); row++, to += stride_of(V), offset += planes.plane) {
      if (spare) store(to + (V - 1) * LANES, vec{});
      if (longest <= LANES / 2)
        copy_runs<LANES / 2>(columns, runs, offset, to);
      else
        copy_runs<LANES>(columns, runs, offset, to);
    }
    for (; row < end; row++, to += stride_of(V)) fill_zero(to, V * LANES);
    k += end - channel;
  }
}

}  // namespace AMC_ISA
