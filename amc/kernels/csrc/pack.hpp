// Reading activations: which pixels the columns of a panel are, and how a 1x1 convolution or a linear
// layer copies what one block of depth reads of them into rows of columns.
#pragma once

#include <algorithm>

#include "amc_kernels.h"
#include "vectors.hpp"

namespace AMC_ISA {

// With one row, this many accumulators keep two multiply-add units busy.
constexpr int MOST_VECTORS = 8;

// Floats from one row of a packed panel to the next.
constexpr int power_of_two_stride(int vectors) {
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
      call.stride_h = call.stride_w = 1;
    }
  }
  int64_t columns() const { return call.batch * call.out_height * call.out_width; }
  bool channels_adjacent() const { return call.x_stride[1] == 1 && call.x_stride[3] != 1; }
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

AMC_INLINE void fill_zero(float *to, int64_t count) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store_any(to + i, vec{});
  if (i < count) store_part(to + i, vec{}, static_cast<int>(count - i));
}

AMC_INLINE void copy(float *to, const float *from, int64_t step, int64_t count) {
  int64_t i = 0;
  if (step == 1) {
    for (; i + LANES <= count; i += LANES) store_any(to + i, load_any(from + i));
    if (i < count) {
      const int left = static_cast<int>(count - i);
      store_part(to + i, load_part(from + i, left), left);
    }
    return;
  }
  for (; i < count; i++) to[i] = from[i * step];
}

// Lanes beyond the last column are computed and dropped; left as they were, they may hold denormal
// numbers, which are slow.
template <int V, int STRIDE>
AMC_INLINE void clear_last(const Columns &columns, int64_t rows, float *to) {
  if (columns.count < V * LANES)
    for (int64_t k = 0; k < rows; k++) store(to + k * STRIDE + (V - 1) * LANES, vec{});
}

// Pixels that lie side by side: row after row is copied.
template <int V, int STRIDE>
void pack_pixels(const View &view, const Columns &columns, int64_t channel, int64_t channels, float *to) {
  const amc_call &c = view.call;
  const int64_t step = c.stride_w * c.x_stride[3];
  clear_last<V, STRIDE>(columns, channels, to);
  if (columns.size == 1 && step == 1 && columns.count == V * LANES) {
    const Run &run = columns.runs[0];
    const float *from = c.x + run.image * c.x_stride[0] + channel * c.x_stride[1] +
                        run.oy * c.stride_h * c.x_stride[2] + run.ox;
    for (int64_t k = 0; k < channels; k++, to += STRIDE, from += c.x_stride[1]) {
      AMC_UNROLL
      for (int j = 0; j < V; j++) store(to + j * LANES, load_any(from + j * LANES));
    }
    return;
  }
  for (int64_t k = channel; k < channel + channels; k++, to += STRIDE)
    for (int r = 0; r < columns.size; r++) {
      const Run &run = columns.runs[r];
      copy(to + run.at,
           c.x + run.image * c.x_stride[0] + k * c.x_stride[1] + run.oy * c.stride_h * c.x_stride[2] + run.ox * step,
           step, run.count);
    }
}

// Channels that lie side by side: squares of LANES pixels by LANES channels are transposed.
template <int V, int STRIDE>
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
      float *row = to + k * STRIDE + j * LANES;
      if (left == LANES) {
        AMC_UNROLL
        for (int i = 0; i < LANES; i++) store(row + i * STRIDE, square[i]);
      } else {
        for (int i = 0; i < left; i++) store(row + i * STRIDE, square[i]);
      }
    }
}

// Depth [from, from + deep) of a panel of a pointwise call; depth is channels, padded to `unit`.
template <int V, int STRIDE>
void pack_pointwise(const View &view, const Columns &columns, int64_t from, int64_t deep, float *to) {
  const int64_t real = std::clamp<int64_t>(view.call.channels - from, 0, deep);
  if (view.channels_adjacent())
    pack_channels<V, STRIDE>(view, columns, from, real, to);
  else
    pack_pixels<V, STRIDE>(view, columns, from, real, to);
  for (int64_t k = real; k < deep; k++) fill_zero(to + k * STRIDE, V * LANES);
}

}  // namespace AMC_ISA
