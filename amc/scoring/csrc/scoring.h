/* Fused dense layers for scoring, float32, one thread, images channels last. A plain C interface.
 *
 * y = relu(scale * conv(x) + shift + other): a convolution with zero padding and no dilation, the
 * BatchNorm behind it as scale and shift, what a residual connection adds, and the ReLU, in one pass.
 * x is [batch, height, width, channels], y and other are [batch, out_height, out_width, rows], all
 * without gaps. The caller has checked sizes and pointers.
 */
#ifndef AMC_SCORING_H
#define AMC_SCORING_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AMC_SCORING_ABI 1

enum { AMC_SCORING_OK = 0, AMC_SCORING_NO_MEMORY = 1, AMC_SCORING_BAD_CALL = 2 };

typedef struct {
  const float *x;
  float *y;
  const float *scale, *shift; /* one number an output channel each */
  const float *other;         /* like y, or NULL */
  const void *weight;         /* packed, see below */
  int64_t batch, channels, height, width;
  int64_t rows, out_height, out_width; /* rows: output channels */
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
  int64_t relu; /* not 0: negative outputs become 0, NaN stays */
} amc_layer;

/* One filter a channel (rows == channels), 3x3, both strides 1 or both 2, no other.
 * weight: float [3][3][channels]. Needs AVX-512. */
int amc_depthwise(const amc_layer *layer);

/* Any kernel and stride, one group.
 * weight: float [ceil16(rows) / 16][depth][16], depth over (ky, kx, input channel), channels fastest;
 * zero beyond rows. Needs AVX-512. */
int amc_direct(const amc_layer *layer);

/* Any kernel and stride, one group, as products of matrix tiles. Every float32 is written as a sum of
 * three bfloat16 (8 + 8 + 8 bits), exactly but for numbers below 2^-110, and six of the nine partial
 * products are summed in float32; the other three are below float32's rounding. An activation beyond
 * bfloat16's range becomes NaN.
 * weight: bfloat16 [ceil16(rows) / 16][ceil32(depth) / 32][3][16][16][2], depth as above; of a block of 16 rows and 32 of depth, of each of the three parts, pairs
 * of depth, row, depth within the pair; zero beyond rows and depth. Needs AMX. */
int amc_tiles(const amc_layer *layer);

/* What this processor and its operating system run: 0 nothing, 1 all but amc_tiles, 2 all.
 * The first call asks the operating system for the tiles' registers, for the whole process. */
int amc_scoring_level(void);

int amc_scoring_abi(void);

#ifdef __cplusplus
}
#endif
#endif
