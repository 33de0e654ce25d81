// N:M sparse weights: `keep` of every 4 channels, as values and 2-bit indices.
#include "engine.hpp"

namespace AMC_ISA {
namespace {

constexpr int GROUP = 4, WORD = 16;  // channels a group; slots an index word

constexpr int log2_of(int value) { return value <= 1 ? 0 : 1 + log2_of(value / 2); }

// Rows at a time: as many sums as registers allow, and no more rows than hide latencies.
constexpr int rows_at_once(int vectors) {
  const int fit = REGISTERS * 3 / 4 / vectors;
  return fit >= 8 && vectors == 1 ? 8 : fit >= 4 && vectors <= 3 ? 4 : fit >= 2 ? 2 : 1;
}

template <int V, int R>
struct Rows {
  static constexpr int STRIDE = power_of_two_stride(V), SHIFT = log2_of(STRIDE * 4);

  // Adds slot `i` of a word to the sums of row r; `group` is its group's first row of X.
  static AMC_INLINE void add(vec *sums, uint64_t word, int i, const float *group, float value) {
    const uint64_t index = SHIFT >= 2 * i ? word << (SHIFT - 2 * i) : word >> (2 * i - SHIFT);
    const char *x = reinterpret_cast<const char *>(group) + (index & (uint64_t{GROUP - 1} << SHIFT));
    asm("" : "+r"(x));  // one address, not an index in each of the V loads
    const vec weight = all(value);
    AMC_UNROLL
    for (int j = 0; j < V; j++) sums[j] += weight * load(reinterpret_cast<const float *>(x) + j * LANES);
  }

  // Adds what `slots` slots of R rows select from `x`, their piece of X.
  template <int KEEP>
  static AMC_INLINE void add_all(vec (*sums)[V], const float *values, const uint32_t *words, int64_t slots,
                                 int64_t words_a_row, const float *x) {
    int64_t word = 0;
    for (; (word + 1) * WORD <= slots; word++, x += WORD / KEEP * GROUP * STRIDE) {
      uint64_t bits[R];
      AMC_UNROLL
      for (int r = 0; r < R; r++) bits[r] = words[r * words_a_row + word];
      AMC_UNROLL
      for (int i = 0; i < WORD; i++)
        AMC_UNROLL
        for (int r = 0; r < R; r++)
          add(sums[r], bits[r], i, x + i / KEEP * GROUP * STRIDE, values[r * slots + word * WORD + i]);
    }
    for (int64_t slot = word * WORD; slot < slots; slot++) {
      const int64_t i = slot - word * WORD;
      AMC_UNROLL
      for (int r = 0; r < R; r++)
        add(sums[r], uint64_t{words[r * words_a_row + word]} >> (2 * i), 0,
            x + i / KEEP * GROUP * STRIDE, values[r * slots + slot]);
    }
  }
};

template <int KEEP>
struct Nm {
  static constexpr int64_t CHANNEL_UNIT = GROUP, ROW_UNIT = 16;

  // A power of two, so that an index becomes an address by a shift.
  static constexpr int stride(int vectors) { return power_of_two_stride(vectors); }
  static int most_vectors(const amc_weight &) { return MOST_VECTORS; }

  // One depth block: where its first row begins, and what a row takes.
  struct Segment {
    const float *values;
    const uint32_t *words;
    int64_t slots, words_a_row;
  };

  // Rows [row, end) over depth blocks [block, last).
  template <int V>
  static void rows(const amc_weight &w, int64_t all_rows, int64_t block, int64_t last, int64_t row, int64_t end,
                   const float *x, const Target &to) {
    constexpr int R = rows_at_once(V);
    const int64_t whole = w.block / GROUP * KEEP, whole_words = (whole + WORD - 1) / WORD;
    Segment segments[MOST_BLOCKS];
    const int64_t count = last - block;
    for (int64_t i = 0; i < count; i++) {
      const int64_t slots = std::min(w.block, w.depth - (block + i) * w.block) / GROUP * KEEP;
      segments[i] = {static_cast<const float *>(w.values) + (block + i) * all_rows * whole,
                     static_cast<const uint32_t *>(w.indices) + (block + i) * all_rows * whole_words, slots,
                     (slots + WORD - 1) / WORD};
    }
    const int64_t step = w.block * power_of_two_stride(V);
    for (; row + R <= end; row += R) run<V, R>(segments, count, row, x, step, to);
    for (; row < end; row++) run<V, 1>(segments, count, row, x, step, to);
  }

  template <int V, int R>
  static AMC_INLINE void run(const Segment *segments, int64_t count, int64_t row, const float *x, int64_t step,
                             const Target &to) {
    vec sums[R][V];
    AMC_UNROLL
    for (int r = 0; r < R; r++) begin_row<V>(sums[r], to, row + r);
    for (const Segment *s = segments; s < segments + count; s++, x += step)
      Rows<V, R>::template add_all<KEEP>(sums, s->values + row * s->slots, s->words + row * s->words_a_row, s->slots,
                                         s->words_a_row, x);
    AMC_UNROLL
    for (int r = 0; r < R; r++) end_row<V>(sums[r], to, row + r);
  }
};

}  // namespace
}  // namespace AMC_ISA

extern "C" int AMC_NAME(nm)(const amc_weight *weight, const amc_call *call) {
  if (weight->keep == 2) return AMC_ISA::multiply<AMC_ISA::Nm<2>>(weight, call);
  if (weight->keep == 1) return AMC_ISA::multiply<AMC_ISA::Nm<1>>(weight, call);
  return AMC_BAD_CALL;
}
