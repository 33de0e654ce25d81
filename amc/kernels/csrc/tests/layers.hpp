// Random layers, and weights packed as amc_kernels.h says, with the list of what was stored.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "amc_kernels.h"
#include "guarded.hpp"

enum class Kind { nm, csr, block, nm_gemv, nm_gemv_half, csc_gemv, dense_gemv };

inline int64_t pick(std::mt19937_64 &random, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
}
inline float small(std::mt19937_64 &random) {
  return static_cast<float>(pick(random, -1000000, 1000000)) * 1e-6f;
}
inline bool is_poison(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits == 0xffffffffu;
}
inline int64_t up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

struct Layer {
  int64_t batch, channels, height, width, rows, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t x_stride[4], y_stride[4], relu, threads;
  bool bias, odd; // odd: NaN and infinity among the weights and activations

  int64_t x_at(int64_t n, int64_t c, int64_t i, int64_t j) const {
    return n * x_stride[0] + c * x_stride[1] + i * x_stride[2] + j * x_stride[3];
  }
  int64_t y_at(int64_t n, int64_t c, int64_t i, int64_t j) const {
    return n * y_stride[0] + c * y_stride[1] + i * y_stride[2] + j * y_stride[3];
  }
  int64_t x_length() const { return 1 + x_at(batch - 1, channels - 1, height - 1, width - 1); }
  int64_t y_length() const { return 1 + y_at(batch - 1, rows - 1, out_height - 1, out_width - 1); }

  amc_call call(const float *x, float *y, const float *bias_or_null) const {
    amc_call c = {};
    c.x = x, c.y = y, c.bias = bias_or_null;
    c.batch = batch, c.channels = channels, c.height = height, c.width = width;
    c.rows = rows, c.out_height = out_height, c.out_width = out_width;
    c.kernel_h = kernel_h, c.kernel_w = kernel_w, c.stride_h = stride_h, c.stride_w = stride_w;
    c.pad_h = pad_h, c.pad_w = pad_w, c.dilation_h = dilation_h, c.dilation_w = dilation_w;
    c.relu = relu, c.threads = threads;
    std::copy(x_stride, x_stride + 4, c.x_stride);
    std::copy(y_stride, y_stride + 4, c.y_stride);
    return c;
  }
  void print() const {
    std::printf("  batch %ld, channels %ld, image %ld x %ld, rows %ld, out %ld x %ld, kernel %ld x %ld,"
                " stride %ld %ld, pad %ld %ld, dilation %ld %ld, relu %ld, threads %ld, bias %d,"
                " odd %d, x strides %ld %ld %ld %ld, y strides %ld %ld %ld %ld\n",
                long(batch), long(channels), long(height), long(width), long(rows),
                long(out_height), long(out_width), long(kernel_h), long(kernel_w), long(stride_h),
                long(stride_w), long(pad_h), long(pad_w), long(dilation_h), long(dilation_w),
                long(relu), long(threads), bias, odd, long(x_stride[0]), long(x_stride[1]),
                long(x_stride[2]), long(x_stride[3]), long(y_stride[0]), long(y_stride[1]),
                long(y_stride[2]), long(y_stride[3]));
  }
};

// Strides of a tensor of these sizes, channels first or last, now and then a slice of a wider one.
inline void strides(std::mt19937_64 &random, int64_t n, int64_t c, int64_t h, int64_t w, bool last,
                    int64_t out[4]) {
  const int64_t gap = pick(random, 0, 3) == 0 ? pick(random, 1, 5) : 0;
  if (last) {
    out[1] = 1, out[3] = c + gap, out[2] = out[3] * w, out[0] = out[2] * h;
  } else {
    out[3] = 1, out[2] = w + gap, out[1] = out[2] * h, out[0] = out[1] * c;
  }
  (void)n;
}

inline Layer random_layer(Kind kind, std::mt19937_64 &random) {
  Layer l = {};
  const bool wide = kind == Kind::nm || kind == Kind::csr || kind == Kind::block;
  const bool conv = wide && pick(random, 0, 1);
  const bool pointwise = !conv || pick(random, 0, 2) == 0;
  l.rows = pick(random, 0, 4) ? pick(random, 1, 40) : pick(random, 1, 150);
  l.channels = pick(random, 0, 4) ? pick(random, 1, 40) : pick(random, 1, 300);
  l.batch = conv ? pick(random, 1, 3) : pick(random, 1, 130);
  if (!wide) l.batch = kind == Kind::csc_gemv ? pick(random, 1, 6) : pick(random, 1, 3);
  l.height = conv ? pick(random, 1, 12) : 1;
  l.width = conv ? pick(random, 1, 12) : 1;
  l.kernel_h = pointwise ? 1 : pick(random, 1, 4);
  l.kernel_w = pointwise ? 1 : pick(random, 1, 4);
  l.stride_h = conv ? pick(random, 1, 3) : 1;
  l.stride_w = conv ? pick(random, 1, 3) : 1;
  l.dilation_h = pointwise ? 1 : pick(random, 1, 2);
  l.dilation_w = pointwise ? 1 : pick(random, 1, 2);
  l.pad_h = pointwise ? 0 : pick(random, 0, 3);
  l.pad_w = pointwise ? 0 : pick(random, 0, 3);
  // The image is made large enough for one output at least.
  l.height = std::max(l.height, (l.kernel_h - 1) * l.dilation_h + 1 - 2 * l.pad_h);
  l.width = std::max(l.width, (l.kernel_w - 1) * l.dilation_w + 1 - 2 * l.pad_w);
  l.out_height = (l.height + 2 * l.pad_h - (l.kernel_h - 1) * l.dilation_h - 1) / l.stride_h + 1;
  l.out_width = (l.width + 2 * l.pad_w - (l.kernel_w - 1) * l.dilation_w - 1) / l.stride_w + 1;
  const bool last = !conv || pick(random, 0, 1);
  strides(random, l.batch, l.channels, l.height, l.width, last, l.x_stride);
  strides(random, l.batch, l.rows, l.out_height, l.out_width, last, l.y_stride);
  l.relu = pick(random, 0, 1);
  l.bias = pick(random, 0, 1);
  l.threads = pick(random, 1, 3);
  l.odd = pick(random, 0, 9) == 0;
  return l;
}

inline void fill_activations(const Layer &l, Guarded<float> &x, std::mt19937_64 &random) {
  // What lies between the elements of a slice must reach no output.
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::numeric_limits<float>::quiet_NaN();
  for (int64_t n = 0; n < l.batch; ++n)
    for (int64_t c = 0; c < l.channels; ++c)
      for (int64_t i = 0; i < l.height; ++i)
        for (int64_t j = 0; j < l.width; ++j) {
          float value = pick(random, 0, 3) ? small(random) : 0.0f;
          if (l.odd && pick(random, 0, 60) == 0)
            value = pick(random, 0, 1) ? std::numeric_limits<float>::infinity()
                                       : std::numeric_limits<float>::quiet_NaN();
          x[l.x_at(n, c, i, j)] = value;
        }
}

// One stored weight: what the reference sums over. A channel past the last meets zeros.
struct Entry {
  int64_t row, tap, channel;
  double value;
};

struct Packed {
  int64_t depth, block, keep;
  bool skips_zeros;
  std::vector<Entry> entries;
  std::unique_ptr<Guarded<float>> values;
  std::unique_ptr<Guarded<uint16_t>> halves, short_indices;
  std::unique_ptr<Guarded<uint32_t>> long_indices, starts;

  amc_weight weight() const {
    amc_weight w = {};
    w.depth = depth, w.block = block, w.keep = keep;
    w.values = halves ? static_cast<const void *>(halves->data()) : values->data();
    if (short_indices) w.indices = short_indices->data();
    if (long_indices) w.indices = long_indices->data();
    if (starts) w.starts = starts->data();
    return w;
  }
  bool surroundings_intact() const {
    return (!values || values->surroundings_intact()) &&
           (!halves || halves->surroundings_intact()) &&
           (!short_indices || short_indices->surroundings_intact()) &&
           (!long_indices || long_indices->surroundings_intact()) &&
           (!starts || starts->surroundings_intact());
  }
};

#include "packing.hpp"
