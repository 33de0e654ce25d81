// Depthwise 3x3: 16 channels at a time, a few neighbouring output pixels share what they read.
#pragma GCC visibility push(default)
#include "scoring.h"
#pragma GCC visibility pop

#include "finish.hpp"

namespace {

constexpr int TAPS = 3;

// `PIXELS` outputs side by side from (oy, ox) on; x and y begin at the first of the 16 channels.
template <int PIXELS, int STRIDE>
void outputs(const amc_layer &l, const Finish &finish, const __m512 (&weight)[TAPS * TAPS],
             const float *x, float *y, const float *other, int64_t oy, int64_t ox) {
  constexpr int READ = (PIXELS - 1) * STRIDE + TAPS;
  const int64_t left = ox * STRIDE - l.pad_w;
  __mmask16 inside[READ];  // nothing is read beyond the edges
#pragma GCC unroll 16
  for (int i = 0; i < READ; i++)
    inside[i] = left + i >= 0 && left + i < l.width ? finish.mask : 0;
  __m512 sums[PIXELS];
#pragma GCC unroll 16
  for (__m512 &sum : sums) sum = _mm512_setzero_ps();
#pragma GCC unroll 3
  for (int ky = 0; ky < TAPS; ky++) {
    const int64_t iy = oy * STRIDE - l.pad_h + ky;
    if (iy < 0 || iy >= l.height) continue;
    const float *row = x + (iy * l.width + left) * l.channels;
    __m512 read[READ];
#pragma GCC unroll 16
    for (int i = 0; i < READ; i++)
      read[i] = _mm512_maskz_loadu_ps(inside[i], row + i * l.channels);
#pragma GCC unroll 3
    for (int kx = 0; kx < TAPS; kx++)
#pragma GCC unroll 16
      for (int i = 0; i < PIXELS; i++)
        sums[i] = _mm512_fmadd_ps(read[i * STRIDE + kx], weight[ky * TAPS + kx], sums[i]);
  }
  const int64_t at = (oy * l.out_width + ox) * l.channels;
#pragma GCC unroll 16
  for (int i = 0; i < PIXELS; i++)
    finish.store(y + at + i * l.channels, other ? other + at + i * l.channels : nullptr, sums[i]);
}

template <int STRIDE>
void run(const amc_layer &l) {
  const float *filters = static_cast<const float *>(l.weight);
  for (int64_t image = 0; image < l.batch; image++)
    for (int64_t channel = 0; channel < l.channels; channel += LANES) {
      const Finish finish(l, channel);
      __m512 weight[TAPS * TAPS];
#pragma GCC unroll 16
      for (int t = 0; t < TAPS * TAPS; t++)
        weight[t] = _mm512_maskz_loadu_ps(finish.mask, filters + t * l.channels + channel);
      const int64_t at = image * l.out_height * l.out_width * l.channels + channel;
      const float *x = l.x + image * l.height * l.width * l.channels + channel;
      const float *other = l.other ? l.other + at : nullptr;
      for (int64_t oy = 0; oy < l.out_height; oy++) {
        int64_t ox = 0;
        for (; ox + 4 <= l.out_width; ox += 4)
          outputs<4, STRIDE>(l, finish, weight, x, l.y + at, other, oy, ox);
        for (; ox + 2 <= l.out_width; ox += 2)
          outputs<2, STRIDE>(l, finish, weight, x, l.y + at, other, oy, ox);
        for (; ox < l.out_width; ox++)
          outputs<1, STRIDE>(l, finish, weight, x, l.y + at, other, oy, ox);
      }
    }
}

}  // namespace

extern "C" int amc_depthwise(const amc_layer *layer) {
  const amc_layer &l = *layer;
  if (l.rows != l.channels || l.kernel_h != TAPS || l.kernel_w != TAPS || l.stride_h != l.stride_w)
    return AMC_SCORING_BAD_CALL;
  if (l.stride_h == 1) return run<1>(l), AMC_SCORING_OK;
  if (l.stride_h == 2) return run<2>(l), AMC_SCORING_OK;
  return AMC_SCORING_BAD_CALL;
}
