// Reading activations: which pixels the columns of a panel are, and copying what one block of depth
// reads of them into rows of columns. Outside the image there are zeros.
#pragma once

#include <algorithm>

#include "amc_kernels.h"
#include "vectors.hpp"

namespace AMC_ISA {

// With one row, this many accumulators keep two multiply-add units busy.
constexpr int MOST_VECTORS = 8;
constexpr int64_t PLANES = 1 << 17;  // floats of transposed images at a time: half a megabyte

constexpr int stride_of(int vectors) {
  int width = LANES;
  while (width < vectors * LANES) width *= 2;
  return width;
}

// A call, simplified: 1x1 convolutions of whole images see an image as one row.
struct View {
  amc_call call;
  bool pointwise;  // one tap, no padding: no column reads outside the image

  explicit View(const amc_call &given) : call(given) {
    const bool one_tap = call.kernel_h == 1 && call.kernel_w == 1;
    pointwise = one_tap && call.pad_h == 0 && call.pad_w == 0;
    if (pointwise && call.stride_h == 1 && call.stride_w == 1 &&
        call.x_stride[2] == call.width * call.x_stride[3] &&
        call.y_stride[2] == call.out_width * call.y_stride[3]) {
      call.width *= call.height;
      call.out_width = call.width;
      call.height = call.out_height = 1;
    }
    // Linear layers are images of one pixel: the batch becomes the row.
    if (pointwise && call.width == 1 && call.height == 1 && call.out_width == 1 && call.out_height == 1) {
      call.width = call.out_width = call.batch;
      call.batch = 1;
      call.x_stride[3] = call.x_stride[0];
      call.y_stride[3] = call.y_stride[0];
    }
  }
  int64_t columns() const { return call.batch * call.out_height * call.out_width; }
  bool channels_adjacent() const { return call.x_stride[1] == 1 && call.x_stride[3] != 1; }
  bool wants_planes() const {
    return channels_adjacent() && call.kernel_h * call.kernel_w > 1 && call.channels > 1;
  }
};

// Columns of one output row of one image.
struct Run {
  int64_t image, oy, ox;
  int at, count;  // the first of them in the panel, and how many
};

struct Columns {
  Run runs[MOST_VECTORS * LANES];
  int size = 0, count;

  Columns(const View &view, int64_t begin, int64_t count_) : count(static_cast<int>(count_)) {
    const amc_call &c = view.call;
    int64_t ox = begin % c.out_width, oy = begin / c.out_width % c.out_height;
    int64_t image = begin / (c.out_width * c.out_height);
    for (int at = 0; at < count;) {
      const int length = static_cast<int>(std::min<int64_t>(count - at, c.out_width - ox));
      runs[size++] = {image, oy, ox, at, length};
      at += length;
      ox = 0;
      if (++oy == c.out_height) oy = 0, image++;
    }
  }
  // Whether row m of the output holds all the columns side by side.
  bool adjacent_in_y(const View &view) const {
    const amc_call &c = view.call;
    const Run &last = runs[size - 1];
    return c.y_stride[3] == 1 && runs[0].image == last.image &&
           (size == 1 || c.y_stride[2] == c.out_width);
  }
  static float *y_at(const View &view, const Run &run) {
    const amc_call &c = view.call;
    return c.y + run.image * c.y_stride[0] + run.oy * c.y_stride[2] + run.ox * c.y_stride[3];
  }
  float *y_of(const View &view) const { return y_at(view, runs[0]); }
};

// The part of a run that lies inside the image at one tap.
struct Inside {
  const float *x;  // channel 0 of the first pixel inside
  int before, count, after;
};

inline Inside inside(const amc_call &c, const Run &run, int64_t ky, int64_t kx) {
  const int64_t y = run.oy * c.stride_h - c.pad_h + ky * c.dilation_h;
  const int64_t x = run.ox * c.stride_w - c.pad_w + kx * c.dilation_w;
  if (y < 0 || y >= c.height) return {nullptr, run.count, 0, 0};
  const int64_t before = x >= 0 ? 0 : std::min<int64_t>(run.count, (-x + c.stride_w - 1) / c.stride_w);
  const int64_t reach = x >= c.width ? 0 : (c.width - x + c.stride_w - 1) / c.stride_w;
  const int64_t end = std::clamp<int64_t>(reach, before, run.count);
  const float *at = c.x + run.image * c.x_stride[0] + y * c.x_stride[2] + (x + before * c.stride_w) * c.x_stride[3];
  return {at, static_cast<int>(before), static_cast<int>(end - before), static_cast<int>(run.count - end)};
}

AMC_INLINE void fill_zero(float *to, int count) {
  int i = 0;
  for (; i + LANES <= count; i += LANES) store_any(to + i, vec{});
  if (i < count) store_part(to + i, vec{}, count - i);
}

AMC_INLINE void copy(float *to, const float *from, int64_t step, int count) {
  int i = 0;
  if (step == 1) {
    for (; i + LANES <= count; i += LANES) store_any(to + i, load_any(from + i));
    if (i < count) store_part(to + i, load_part(from + i, count - i), count - i);
    return;
  }
  for (; i < count; i++) to[i] = from[i * step];
}

// Pixels that lie side by side: row after row is copied.
template <int V>
void pack_rows(const View &view, const Columns &columns, int64_t ky, int64_t kx, int64_t channel, int64_t channels,
               float *to) {
  const amc_call &c = view.call;
  const int64_t step = c.stride_w * c.x_stride[3];
  for (int r = 0; r < columns.size; r++) {
    const Run &run = columns.runs[r];
    const Inside in = inside(c, run, ky, kx);
    float *row = to + run.at;
    const float *from = in.x + channel * c.x_stride[1];
    for (int64_t k = 0; k < channels; k++, row += stride_of(V), from += c.x_stride[1]) {
      if (in.before) fill_zero(row, in.before);
      if (in.count) copy(row + in.before, from, step, in.count);
      if (in.after) fill_zero(row + in.before + in.count, in.after);
    }
  }
}

// Channels that lie side by side: squares of LANES pixels by LANES channels are transposed.
template <int V>
void pack_channels(const View &view, const Columns &columns, int64_t channel, int64_t channels, float *to) {
  const amc_call &c = view.call;
  const float *pixels[V * LANES];
  for (int r = 0; r < columns.size; r++) {
    const Run &run = columns.runs[r];
    const float *first = c.x + run.image * c.x_stride[0] + run.oy * c.stride_h * c.x_stride[2] + channel;
    for (int i = 0; i < run.count; i++)
      pixels[run.at + i] = first + (run.ox + i) * c.stride_w * c.x_stride[3];
  }
  // What is read of the last vector beyond the columns there are is never written.
  for (int i = columns.count; i < V * LANES; i++) pixels[i] = pixels[0];
  for (int j = 0; j < V; j++)
    for (int64_t k = 0; k < channels; k += LANES) {
      const int left = static_cast<int>(std::min<int64_t>(LANES, channels - k));
      vec square[LANES];
      AMC_UNROLL
      for (int i = 0; i < LANES; i++) {
        const float *from = pixels[j * LANES + i] + k;
        square[i] = left == LANES ? load_any(from) : load_part(from, left);
      }
      transpose(square);
      float *row = to + k * stride_of(V) + j * LANES;
      if (left == LANES) {
        AMC_UNROLL
        for (int i = 0; i < LANES; i++) store(row + i * stride_of(V), square[i]);
      } else {
        for (int i = 0; i < left; i++) store(row + i * stride_of(V), square[i]);
      }
    }
}

// Depth [from, from + deep) of the panel's columns; depth runs over taps, then over channels padded to `unit`.
template <int V>
void pack(const View &view, const Columns &columns, int64_t from, int64_t deep, int64_t unit, float *to) {
  const amc_call &c = view.call;
  const int64_t padded = (c.channels + unit - 1) / unit * unit;
  for (int64_t k = from; k < from + deep;) {
    const int64_t tap = k / padded, channel = k % padded;
    const int64_t end = std::min(padded, channel + from + deep - k);
    const int64_t real = std::clamp<int64_t>(c.channels - channel, 0, end - channel);
    if (view.pointwise && view.channels_adjacent())
      pack_channels<V>(view, columns, channel, real, to);
    else
      pack_rows<V>(view, columns, tap / c.kernel_w, tap % c.kernel_w, channel, real, to);
    for (int64_t row = real; row < end - channel; row++) fill_zero(to + row * stride_of(V), V * LANES);
    // Lanes beyond the last column are computed and dropped; left as they were, they may hold
    // denormal numbers, which are slow.
    if (const int spare = V * LANES - columns.count)
      for (int64_t row = 0; row < real; row++) fill_zero(to + row * stride_of(V) + columns.count, spare);
    to += (end - channel) * stride_of(V);
    k += end - channel;
  }
}

// Images with adjacent channels as planes, one a channel.
inline void to_planes(const amc_call &c, float *to) {
  const int64_t pixels = c.height * c.width;
  for (int64_t image = 0; image < c.batch; image++, to += c.channels * pixels)
    for (int64_t y = 0; y < c.height; y++)
      for (int64_t x = 0; x < c.width; x += LANES) {
        const int wide = static_cast<int>(std::min<int64_t>(LANES, c.width - x));
        const float *from = c.x + image * c.x_stride[0] + y * c.x_stride[2] + x * c.x_stride[3];
        for (int64_t channel = 0; channel < c.channels; channel += LANES) {
          const int deep = static_cast<int>(std::min<int64_t>(LANES, c.channels - channel));
          vec square[LANES];
          AMC_UNROLL
          for (int i = 0; i < LANES; i++) {
            const float *pixel = from + std::min(i, wide - 1) * c.x_stride[3] + channel;
            square[i] = deep == LANES ? load_any(pixel) : load_part(pixel, deep);
          }
          transpose(square);
          float *row = to + channel * pixels + y * c.width + x;
          for (int i = 0; i < deep; i++, row += pixels) store_part(row, square[i], wide);
        }
      }
}

}  // namespace AMC_ISA
