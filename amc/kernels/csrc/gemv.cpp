// Few columns: every weight is read once, so memory sets the pace and the lanes are output rows.
#include <algorithm>
#include <cstdlib>

#include "amc_kernels.h"
#include "vectors.hpp"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace AMC_ISA {
namespace {

constexpr int GROUP = 4, ROWS = 16, PARTS = ROWS / LANES;  // ROWS: of a block, whatever the lanes
constexpr int AHEAD = 384;  // weights; the processor's own prefetcher stops at each page

struct Floats {
  typedef float stored;
  static AMC_INLINE vec at(const float *p) { return load_any(p); }
};

struct Halves {
  typedef uint16_t stored;
  static AMC_INLINE vec at(const uint16_t *p) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
#elif defined(__aarch64__)
    vec v;
    for (int i = 0; i < LANES; i++) {
      __fp16 half;
      std::memcpy(&half, p + i, sizeof half);
      v[i] = half;
    }
    return v;
#else
    vec v;
    for (int i = 0; i < LANES; i++) {
      // Exponent and mantissa move up; the factor mends the bias, subnormals included.
      const uint32_t magnitude = p[i] & 0x7fffu;
      uint32_t bits = magnitude << 13;
      if (magnitude >= 0x7c00u) bits |= 0x7f800000u;  // infinity and NaN
      float value;
      std::memcpy(&value, &bits, sizeof value);
      if (magnitude < 0x7c00u) value *= 0x1p112f;
      v[i] = p[i] & 0x8000u ? -value : value;
    }
    return v;
#endif
  }
};

// The four activations of a group, again and again.
AMC_INLINE vec repeat(const float *x) {
#if defined(__AVX512F__)
  return (vec)_mm512_broadcast_f32x4(_mm_loadu_ps(x));
#elif defined(__AVX__)
  return (vec)_mm256_broadcast_ps(reinterpret_cast<const __m128 *>(x));
#else
  return load_any(x);
#endif
}

// Picks within each four lanes; only the low two bits of `which` count.
AMC_INLINE vec pick(vec four, ivec which) {
#if defined(__AVX512F__)
  return (vec)_mm512_permutevar_ps((__m512)four, (__m512i)which);
#elif defined(__AVX__)
  return (vec)_mm256_permutevar_ps((__m256)four, (__m256i)which);
#elif defined(__clang__)
  vec v;
  for (int i = 0; i < LANES; i++) v[i] = four[which[i] & 3];
  return v;
#else
  return __builtin_shuffle(four, which & 3);
#endif
}

AMC_INLINE ivec shifts(int part) {
  ivec s;
  for (int i = 0; i < LANES; i++) s[i] = 2 * (part * LANES + i);
  return s;
}

// The word, moved so that each lane's own two bits are the lowest.
AMC_INLINE ivec decode(uint32_t word, int part) {
#if defined(__AVX2__) || defined(__aarch64__)
  typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
  return (ivec)((word - uvec{}) >> (uvec)shifts(part));
#else
  ivec which;
  for (int i = 0; i < LANES; i++) which[i] = static_cast<int32_t>(word >> (2 * (part * LANES + i)));
  return which;
#endif
}

// N columns of BLOCKS row blocks at once: streams beside one another keep more of memory busy.
template <class Stored, int KEEP, int N, int BLOCKS>
AMC_INLINE void row_blocks(const amc_weight &w, const amc_call &c, int64_t block, const float *const *x) {
  typedef typename Stored::stored stored;
  const int64_t slots = w.depth / GROUP * KEEP;
  const stored *values = static_cast<const stored *>(w.values) + block * slots * ROWS;
  const uint32_t *words = static_cast<const uint32_t *>(w.indices) + block * slots;
  vec sums[BLOCKS][PARTS][N];
  AMC_UNROLL
  for (int b = 0; b < BLOCKS; b++)
    AMC_UNROLL
    for (int p = 0; p < PARTS; p++)
      AMC_UNROLL
      for (int n = 0; n < N; n++) sums[b][p][n] = vec{};
  for (int64_t slot = 0; slot < slots; slot += KEEP) {
    vec four[N];
    AMC_UNROLL
    for (int n = 0; n < N; n++) four[n] = repeat(x[n] + slot / KEEP * GROUP);
    AMC_UNROLL
    for (int k = 0; k < KEEP; k++)
      AMC_UNROLL
      for (int b = 0; b < BLOCKS; b++) {
        const uint32_t word = words[b * slots + slot + k];
        __builtin_prefetch(values + (b * slots + slot + k) * ROWS + AHEAD);
        AMC_UNROLL
        for (int p = 0; p < PARTS; p++) {
          const ivec which = decode(word, p);
          const vec weight = Stored::at(values + (b * slots + slot + k) * ROWS + p * LANES);
          AMC_UNROLL
          for (int n = 0; n < N; n++) sums[b][p][n] += weight * pick(four[n], which);
        }
      }
  }
  AMC_UNROLL
  for (int b = 0; b < BLOCKS; b++)
    AMC_UNROLL
    for (int p = 0; p < PARTS; p++)
      AMC_UNROLL
      for (int n = 0; n < N; n++) {
        const int64_t row = (block + b) * ROWS + p * LANES;
        const int count = static_cast<int>(std::min<int64_t>(LANES, c.rows - row));
        if (count <= 0) continue;
        vec sum = sums[b][p][n];
        if (c.bias) sum += load_part(c.bias + row, count);
        if (c.relu) sum = relu(sum);
        float *y = c.y + n * c.y_stride[0] + row * c.y_stride[1];
        if (c.y_stride[1] == 1)
          store_part(y, sum, count);
        else
          for (int i = 0; i < count; i++) y[i * c.y_stride[1]] = sum[i];
      }
}

constexpr int64_t MOST_COLUMNS = 16;

template <class Stored, int KEEP, int N>
void columns(const amc_weight &w, const amc_call &c, int64_t first, int64_t last, const float *const *x) {
  // As many row blocks at once as registers hold the sums of.
  constexpr int FIT = (REGISTERS - 4 - std::min(N, 4)) / (N * PARTS);
  constexpr int BLOCKS = FIT >= 4 ? 4 : FIT >= 2 ? 2 : 1;
  for (; first + BLOCKS <= last; first += BLOCKS) row_blocks<Stored, KEEP, N, BLOCKS>(w, c, first, x);
  for (; first < last; first++) row_blocks<Stored, KEEP, N, 1>(w, c, first, x);
}

template <class Stored, int KEEP>
void some_columns(const amc_weight &w, amc_call c, int64_t first, int64_t last, const float *const *x,
                  int64_t count) {
  while (count > 0) {
    // On 16 registers, sums of many columns would not fit.
    const int64_t most = REGISTERS == 32 && LANES == 16 ? MOST_COLUMNS : 4 / std::min(PARTS, 2);
    const int64_t take = std::min(count, most);
    switch (take) {
#define AMC_CASE(N) \
  case N:           \
    columns<Stored, KEEP, N>(w, c, first, last, x); \
    break;
      AMC_CASE(1) AMC_CASE(2) AMC_CASE(3) AMC_CASE(4)
#if defined(__AVX512F__)
      AMC_CASE(5) AMC_CASE(6) AMC_CASE(7) AMC_CASE(8) AMC_CASE(9) AMC_CASE(10) AMC_CASE(11) AMC_CASE(12)
      AMC_CASE(13) AMC_CASE(14) AMC_CASE(15) AMC_CASE(16)
#endif
#undef AMC_CASE
    }
    count -= take;
    x += take;
    c.y += take * c.y_stride[0];
  }
}

bool linear(const amc_call &c) {
  return c.height * c.width == 1 && c.kernel_h * c.kernel_w == 1 && c.out_height * c.out_width == 1 &&
         c.threads >= 1;
}

// Activations with `depth` adjacent channels: copied where they are not, or where depth is padded.
struct Adjacent {
  const float **columns = nullptr;
  float *memory = nullptr;

  Adjacent(const amc_call &c, int64_t depth) {
    columns = static_cast<const float **>(std::malloc(sizeof(float *) * static_cast<size_t>(c.batch + 1)));
    const bool as_is = c.x_stride[1] == 1 && depth == c.channels;
    if (!as_is) memory = static_cast<float *>(std::calloc(static_cast<size_t>(c.batch * depth + 1), sizeof(float)));
    if (!columns || (!as_is && !memory)) return;
    for (int64_t n = 0; n < c.batch; n++) {
      const float *x = c.x + n * c.x_stride[0];
      columns[n] = as_is ? x : memory + n * depth;
      if (!as_is)
        for (int64_t k = 0; k < c.channels; k++) memory[n * depth + k] = x[k * c.x_stride[1]];
    }
    ready = true;
  }
  ~Adjacent() {
    std::free(columns);
    std::free(memory);
  }
  bool ready = false;
};

template <class Stored, int KEEP>
int few_columns(const amc_weight &w, const amc_call &c) {
  const Adjacent x(c, w.depth);
  if (!x.ready) return AMC_NO_MEMORY;
  const int64_t blocks = (c.rows + ROWS - 1) / ROWS, threads = c.threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static, 1) if (threads > 1)
#endif
  for (int64_t t = 0; t < threads; t++)
    some_columns<Stored, KEEP>(w, c, t * blocks / threads, (t + 1) * blocks / threads, x.columns, c.batch);
  return AMC_OK;
}

template <class Stored>
int nm_gemv(const amc_weight &w, const amc_call &c) {
  if (!linear(c) || w.depth % GROUP) return AMC_BAD_CALL;
  if (w.keep == 2) return few_columns<Stored, 2>(w, c);
  if (w.keep == 1) return few_columns<Stored, 1>(w, c);
  return AMC_BAD_CALL;
}

// Each activation that is not 0 adds its column of weights to the sums. Threads take rows, and find
// theirs in each column, which is ascending.
void csc_rows(const amc_weight &w, const amc_call &c, int64_t first, int64_t last, float *sums) {
  const float *values = static_cast<const float *>(w.values);
  const uint16_t *rows = static_cast<const uint16_t *>(w.indices);
  for (int64_t n = 0; n < c.batch; n++) {
    for (int64_t row = first; row < last; row++) sums[row] = c.bias ? c.bias[row] : 0.0f;
    for (int64_t k = 0; k < w.depth; k++) {
      const float x = c.x[n * c.x_stride[0] + k * c.x_stride[1]];
      if (x == 0.0f) continue;
      int64_t slot = w.starts[k];
      int64_t end = w.starts[k + 1];
      if (first > 0) slot = std::lower_bound(rows + slot, rows + end, first) - rows;
      if (last < c.rows) end = std::lower_bound(rows + slot, rows + end, last) - rows;
      for (; slot < end; slot++) sums[rows[slot]] += values[slot] * x;
    }
    float *y = c.y + n * c.y_stride[0];
    for (int64_t row = first; row < last; row++) {
      const float sum = sums[row];
      y[row * c.y_stride[1]] = c.relu && sum < 0.0f ? 0.0f : sum;
    }
  }
}

// Dense, four rows at a time, N columns: every weight is read once.
template <int N>
void dense_rows(const amc_weight &w, const amc_call &c, int64_t first, int64_t last, const float *const *x, int64_t n) {
  constexpr int R = 4, U = N == 1 ? 2 : 1;
  const float *values = static_cast<const float *>(w.values);
  for (int64_t row = first; row < last; row += R) {
    const float *at[R];
    for (int r = 0; r < R; r++) at[r] = values + std::min(row + r, last - 1) * w.depth;
    vec sums[R][U][N];
    AMC_UNROLL
    for (int r = 0; r < R; r++)
      AMC_UNROLL
      for (int u = 0; u < U; u++)
        AMC_UNROLL
        for (int i = 0; i < N; i++) sums[r][u][i] = vec{};
    int64_t k = 0;
    for (; k + U * LANES <= w.depth; k += U * LANES)
      AMC_UNROLL
      for (int u = 0; u < U; u++)
        AMC_UNROLL
        for (int r = 0; r < R; r++) {
          const vec weights = load_any(at[r] + k + u * LANES);
          AMC_UNROLL
          for (int i = 0; i < N; i++) sums[r][u][i] += weights * load_any(x[n + i] + k + u * LANES);
        }
    for (int r = 0; r < R && row + r < last; r++)
      for (int i = 0; i < N; i++) {
        vec total = sums[r][0][i];
        for (int u = 1; u < U; u++) total += sums[r][u][i];
        float sum = c.bias ? c.bias[row + r] : 0.0f;
        for (int lane = 0; lane < LANES; lane++) sum += total[lane];
        for (int64_t rest = k; rest < w.depth; rest++) sum += at[r][rest] * x[n + i][rest];
        c.y[(n + i) * c.y_stride[0] + (row + r) * c.y_stride[1]] = c.relu && sum < 0.0f ? 0.0f : sum;
      }
  }
}

}  // namespace
}  // namespace AMC_ISA

extern "C" int AMC_NAME(nm_gemv)(const amc_weight *weight, const amc_call *call) {
  return AMC_ISA::nm_gemv<AMC_ISA::Floats>(*weight, *call);
}

extern "C" int AMC_NAME(nm_gemv_half)(const amc_weight *weight, const amc_call *call) {
  return AMC_ISA::nm_gemv<AMC_ISA::Halves>(*weight, *call);
}

extern "C" int AMC_NAME(csc_gemv)(const amc_weight *weight, const amc_call *call) {
  const amc_call &c = *call;
  if (!AMC_ISA::linear(c)) return AMC_BAD_CALL;
  float *sums = static_cast<float *>(std::malloc(sizeof(float) * static_cast<size_t>(c.rows + 1)));
  if (!sums) return AMC_NO_MEMORY;
  const int64_t threads = c.threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static, 1) if (threads > 1)
#endif
  for (int64_t t = 0; t < threads; t++)
    AMC_ISA::csc_rows(*weight, c, t * c.rows / threads, (t + 1) * c.rows / threads, sums);
  std::free(sums);
  return AMC_OK;
}

extern "C" int AMC_NAME(dense_gemv)(const amc_weight *weight, const amc_call *call) {
  const amc_call &c = *call;
  if (!AMC_ISA::linear(c)) return AMC_BAD_CALL;
  const AMC_ISA::Adjacent x(c, weight->depth);
  if (!x.ready) return AMC_NO_MEMORY;
  const int64_t threads = c.threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static, 1) if (threads > 1)
#endif
  for (int64_t t = 0; t < threads; t++)
    for (int64_t n = 0, first = t * c.rows / threads, last = (t + 1) * c.rows / threads; n < c.batch;) {
      const int64_t left = c.batch - n;
      if (left >= 3)
        AMC_ISA::dense_rows<3>(*weight, c, first, last, x.columns, n), n += 3;
      else if (left == 2)
        AMC_ISA::dense_rows<2>(*weight, c, first, last, x.columns, n), n += 2;
      else
        AMC_ISA::dense_rows<1>(*weight, c, first, last, x.columns, n), n += 1;
    }
  return AMC_OK;
}
