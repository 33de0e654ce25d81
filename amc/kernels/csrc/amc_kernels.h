/* Sparse weights times dense activations, float32, on the CPU. A plain C interface.
 *
 * A layer is one product Y[rows, columns] = W[rows, depth] X[depth, columns]: rows are output channels,
 * columns are output pixels of the whole batch, and depth runs over (ky, kx, input channel), input
 * channels fastest. A linear layer is a 1x1 convolution of 1x1 images. Only stored weights are
 * multiplied: an activation that meets no stored weight reaches no output, NaN and infinity included.
 *
 * Every function returns 0, or one of the AMC_* codes; what Y holds is then undefined. The caller has
 * checked that the packed arrays have the lengths below and that their indices lie inside, and that
 * strides, paddings and dilations are at most 65536; strides of memory and pointers are taken as given.
 */
#ifndef AMC_KERNELS_H
#define AMC_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AMC_ABI 1

enum { AMC_OK = 0, AMC_NO_MEMORY = 1, AMC_BAD_CALL = 2 };

/* What is read and written. Strides are in elements, in the order batch, channel, row, column of an image. */
typedef struct {
  const float *x;
  float *y;
  const float *bias; /* one number an output channel, or NULL */
  int64_t batch, channels, height, width;
  int64_t x_stride[4];
  int64_t rows, out_height, out_width; /* rows: output channels */
  int64_t y_stride[4];
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t relu;    /* not 0: negative outputs become 0, NaN stays */
  int64_t threads; /* 1 or more; OpenMP's own pool */
} amc_call;

/* Packed weights. Depth is cut into blocks of `block` (the last may be shorter), so that the piece of X
 * that a block reads stays in the first-level cache; arrays are stored block by block, row by row.
 *
 * nm (amc_nm): `keep` of every 4 consecutive input channels; channels are padded to a multiple of 4 at
 *   every tap, so depth = kernel_h * kernel_w * ceil4(channels); block is a multiple of 64.
 *   A row has n = keep * (block's depth / 4) slots in a block. values: n floats. indices: ceil(n / 16)
 *   uint32 words, slot i of 16 in bits 2i and 2i + 1: its channel within its group of 4. A group with
 *   fewer non-zeros than slots stores zeros, which are multiplied like any stored weight.
 *   starts is not used.
 * csr (amc_csr): depth = kernel_h * kernel_w * channels, block at most 65536.
 *   starts: uint32, blocks * rows + 1, where the slots of (block, row) begin. values: a float a slot.
 *   indices: uint16 a slot, depth within the block, ascending. Both arrays are followed by 16 spare zeros.
 * block (amc_block): 4 consecutive output rows share their non-zero columns; rows are padded to 4.
 *   starts: uint32, blocks * (rows / 4) + 1. indices: uint16 a slot; values: 4 floats a slot, one a row.
 *   Spare zeros: 16 slots in indices, 16 floats in values.
 * nm for few columns (amc_nm_gemv, amc_nm_gemv_half): rows padded to 16, in blocks of 16; of each
 *   block, of each group of 4 of depth, of each slot: 16 values (float, or IEEE half as uint16), and one
 *   uint32 of indices, row i of the block in bits 2i and 2i + 1. block and starts are not used.
 * csc for one column (amc_csc_gemv): starts: uint32, depth + 1. indices: uint16 a slot, the row,
 *   ascending within a column. values: a float a slot. Columns whose activation is 0 are skipped, so a
 *   stored NaN or infinity that meets a 0 does not reach the output. Spare zeros as for csr.
 */
typedef struct {
  int64_t depth, block, keep;
  const void *values;
  const void *indices;
  const uint32_t *starts;
} amc_weight;

int amc_nm(const amc_weight *weight, const amc_call *call);
int amc_csr(const amc_weight *weight, const amc_call *call);
int amc_block(const amc_weight *weight, const amc_call *call);

/* Linear layers (images of 1x1) with any number of columns; meant for up to 16, and for one (csc). */
int amc_nm_gemv(const amc_weight *weight, const amc_call *call);
int amc_nm_gemv_half(const amc_weight *weight, const amc_call *call);
int amc_csc_gemv(const amc_weight *weight, const amc_call *call);

/* A dense y = W x with W row-major [rows, depth], reading W once: the yardstick of the GEMVs. */
int amc_dense_gemv(const amc_weight *weight, const amc_call *call);

/* Multiply-adds a second of registers alone, one thread: the ceiling that fractions are quoted against. */
double amc_peak_flops(void);

int amc_abi(void);
const char *amc_isa(void);           /* what runs: "baseline", "avx2", "avx512" or "neon" */
const char *amc_isas(void);          /* what was built, separated by spaces, slowest first */
int amc_select_isa(const char *isa); /* AMC_BAD_CALL where not built or not of this CPU */

#ifdef __cplusplus
}
#endif
#endif
