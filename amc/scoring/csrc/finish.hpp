// What both kernels do with a finished vector of 16 output channels.
#pragma once

#include <immintrin.h>

#include "scoring.h"

namespace {

constexpr int LANES = 16;

inline __mmask16 first(int64_t count) {
  return count >= LANES ? 0xffff : static_cast<__mmask16>((1u << count) - 1u);
}

// Scale, shift, residual and ReLU of the channels from `channel` on, as many as `mask` has.
struct Finish {
  __mmask16 mask;
  __m512 scale, shift;
  bool relu;

  Finish(const amc_layer &layer, int64_t channel)
      : mask(first(layer.rows - channel)),
        scale(_mm512_maskz_loadu_ps(mask, layer.scale + channel)),
        shift(_mm512_maskz_loadu_ps(mask, layer.shift + channel)),
        relu(layer.relu != 0) {}

  void store(float *y, const float *other, __m512 sum) const {
    __m512 v = _mm512_fmadd_ps(sum, scale, shift);
    if (other) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, other));
    const __m512 zero = _mm512_setzero_ps();
    // NaN stays: a comparison with it is false.
    if (relu) v = _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(v, zero, _CMP_LT_OQ), zero);
    _mm512_mask_storeu_ps(y, mask, v);
  }
};

}  // namespace
