// Direct convolutions in float32: 7 neighbouring output pixels times 32 output channels stay in registers.
#pragma GCC visibility push(default)
#include "scoring.h"
#pragma GCC visibility pop

#include <cstring>
#include <new>
#include <type_traits>
#include <vector>

#include "finish.hpp"

namespace {

// What a convolution reads: an image, or its copy in a frame of zeros where there is padding.
struct Source {
  const float *at;
  int64_t row, step;  // floats from one row, and from one output pixel, to the next
};

// `PIXELS` outputs side by side; from, y and other are those of the first of them.
template <int PIXELS, int VECTORS>
void outputs(const amc_layer &l, const Finish *finish, const float *weight, int64_t next_weight,
             const Source &source, const float *from, float *y, const float *other) {
  // 7 sums alone would wait for one another: with one vector, even and odd depths have their own.
  constexpr int STEPS = VECTORS == 1 ? 2 : 1;
  __m512 sums[PIXELS][2];
  const float *pixels[PIXELS];
#pragma GCC unroll 8
  for (int i = 0; i < PIXELS; i++) {
    pixels[i] = from + i * source.step;
    sums[i][0] = sums[i][1] = _mm512_setzero_ps();
  }
  const auto add = [&](int64_t k, int step) __attribute__((always_inline)) {
    __m512 w[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) w[v] = _mm512_loadu_ps(weight + v * next_weight);
    weight += LANES;
#pragma GCC unroll 8
    for (int i = 0; i < PIXELS; i++) {
      const __m512 x = _mm512_set1_ps(pixels[i][k]);
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++)
        sums[i][v + step] = _mm512_fmadd_ps(x, w[v], sums[i][v + step]);
    }
  };
  const int64_t run = l.kernel_w * l.channels;
  for (int64_t ky = 0; ky < l.kernel_h; ky++) {
    int64_t k = 0;
    for (; k + STEPS <= run; k += STEPS) {
      add(k, 0);
      if constexpr (STEPS == 2) add(k + 1, 1);
    }
    if (k < run) add(k, 0);
#pragma GCC unroll 8
    for (int i = 0; i < PIXELS; i++) pixels[i] += source.row;
  }
  if constexpr (STEPS == 2)
#pragma GCC unroll 8
    for (int i = 0; i < PIXELS; i++) sums[i][0] = _mm512_add_ps(sums[i][0], sums[i][1]);
#pragma GCC unroll 8
  for (int i = 0; i < PIXELS; i++)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
      const int64_t at = i * l.rows + v * LANES;
      finish[v].store(y + at, other ? other + at : nullptr, sums[i][v]);
    }
}

// One row of outputs of 16 or 32 channels.
template <int VECTORS>
void output_row(const amc_layer &l, const Finish *finish, const float *weight, int64_t next_weight,
                const Source &source, const float *from, float *y, const float *other) {
  int64_t ox = 0;
  const auto rest = [&](auto pixels) {
    constexpr int PIXELS = decltype(pixels)::value;
    for (; ox + PIXELS <= l.out_width; ox += PIXELS)
      outputs<PIXELS, VECTORS>(l, finish, weight, next_weight, source, from + ox * source.step,
                               y + ox * l.rows, other ? other + ox * l.rows : nullptr);
  };
  rest(std::integral_constant<int, 7>{});
  rest(std::integral_constant<int, 4>{});
  rest(std::integral_constant<int, 2>{});
  rest(std::integral_constant<int, 1>{});
}

void one_image(const amc_layer &l, const Source &source, float *y, const float *other) {
  const int64_t block = l.kernel_h * l.kernel_w * l.channels * LANES;
  const float *weight = static_cast<const float *>(l.weight);
  for (int64_t channel = 0; channel < l.rows; channel += 2 * LANES, weight += 2 * block) {
    const bool two = channel + LANES < l.rows;
    const Finish finish[2] = {Finish(l, channel), Finish(l, two ? channel + LANES : channel)};
    for (int64_t oy = 0; oy < l.out_height; oy++) {
      const float *from = source.at + oy * l.stride_h * source.row;
      const int64_t at = oy * l.out_width * l.rows + channel;
      const float *add = other ? other + at : nullptr;
      if (two)
        output_row<2>(l, finish, weight, block, source, from, y + at, add);
      else
        output_row<1>(l, finish, weight, block, source, from, y + at, add);
    }
  }
}

// Without taps, strides and edges, all pixels of a batch are one row.
amc_layer as_one_row(amc_layer l) {
  l.out_width = l.width = l.batch * l.height * l.width;
  l.out_height = l.height = l.batch = 1;
  return l;
}

}  // namespace

extern "C" int amc_direct(const amc_layer *layer) {
  const bool flat = layer->kernel_h * layer->kernel_w * layer->stride_h * layer->stride_w == 1 &&
                    layer->pad_h + layer->pad_w == 0;
  const amc_layer l = flat ? as_one_row(*layer) : *layer;
  const int64_t row = l.width * l.channels, framed = (l.width + 2 * l.pad_w) * l.channels;
  const bool padded = l.pad_h + l.pad_w > 0;
  std::vector<float> frame;
  try {
    if (padded) frame.assign((l.height + 2 * l.pad_h) * framed, 0.0f);
  } catch (const std::bad_alloc &) {
    return AMC_SCORING_NO_MEMORY;
  }
  const int64_t outputs = l.out_height * l.out_width * l.rows;
  for (int64_t image = 0; image < l.batch; image++) {
    const float *x = l.x + image * l.height * row;
    for (int64_t iy = 0; padded && iy < l.height; iy++)
      std::memcpy(&frame[(iy + l.pad_h) * framed + l.pad_w * l.channels], x + iy * row,
                  row * sizeof(float));
    const Source source{padded ? frame.data() : x, framed, l.stride_w * l.channels};
    one_image(l, source, l.y + image * outputs, l.other ? l.other + image * outputs : nullptr);
  }
  return AMC_SCORING_OK;
}
