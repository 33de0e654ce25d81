// Unstructured sparse weights, row by row: any sparsity.
#include "engine.hpp"

namespace AMC_ISA {
namespace {

// Floats of a piece of X: sparse rows touch little of it, so the second-level cache is near enough.
constexpr int64_t WIDE = 24576;

// Slots at a time, each with sums of its own where V sums alone would wait for one another.
constexpr int chains(int vectors) {
  const int most = REGISTERS == 32 ? 6 : 4;
  return vectors > most ? 1 : vectors >= 3 ? 2 : 4;
}

template <int V>
AMC_INLINE void add(vec *sums, const float *x, uint64_t offset, uint64_t stride, float value) {
  const float *row = x + offset * stride;
  asm("" : "+r"(row));  // one address, not an index in each of the V loads
  const vec weight = all(value);
  AMC_UNROLL
  for (int j = 0; j < V; j++) sums[j] += weight * load(row + j * LANES);
}

struct Csr {
  static constexpr int64_t CHANNEL_UNIT = 1, ROW_UNIT = 8;

  // No wider than the columns: a power of two would leave part of the cache's sets unused.
  static constexpr int stride(int vectors) { return vectors * LANES; }

  // A deep block leaves less room beside it: narrower panels, but never less than two vectors.
  static int most_vectors(const amc_weight &w) {
    int vectors = MOST_VECTORS;
    while (vectors > 2 && w.block * stride(vectors) > WIDE) vectors--;
    return vectors;
  }

  template <int V>
  static void rows(const amc_weight &w, int64_t all_rows, int64_t block, int64_t last, int64_t row, int64_t end,
                   const float *x, const Target &to) {
    constexpr int CHAINS = chains(V);
    uint64_t apart = stride(V);
    if (V & (V - 1)) asm("" : "+r"(apart));  // one multiplication, not shifts and additions
    const float *all_values = static_cast<const float *>(w.values);
    const uint16_t *all_offsets = static_cast<const uint16_t *>(w.indices);
    for (; row < end; row++) {
      vec sums[CHAINS][V];
      begin_row<V>(sums[0], to, row);
      AMC_UNROLL
      for (int c = 1; c < CHAINS; c++)
        AMC_UNROLL
        for (int j = 0; j < V; j++) sums[c][j] = vec{};
      for (int64_t b = block; b < last; b++) {
        const float *piece = x + (b - block) * w.block * stride(V);
        const uint32_t *starts = w.starts + b * all_rows + row;
        const float *values = all_values + starts[0];
        const uint16_t *offsets = all_offsets + starts[0];
        int64_t slots = starts[1] - starts[0];
        for (; slots >= 4; slots -= 4, values += 4, offsets += 4) {
          uint64_t four;  // one load for four offsets: loads are what limits this loop
          std::memcpy(&four, offsets, sizeof four);
          AMC_UNROLL
          for (int i = 0; i < 4; i++) add<V>(sums[i % CHAINS], piece, four >> (16 * i) & 0xffff, apart, values[i]);
        }
        for (int64_t i = 0; i < slots; i++) add<V>(sums[0], piece, offsets[i], apart, values[i]);
      }
      AMC_UNROLL
      for (int c = 1; c < CHAINS; c++)
        AMC_UNROLL
        for (int j = 0; j < V; j++) sums[0][j] += sums[c][j];
      end_row<V>(sums[0], to, row);
    }
  }
};

}  // namespace
}  // namespace AMC_ISA

extern "C" int AMC_NAME(csr)(const amc_weight *weight, const amc_call *call) {
  return AMC_ISA::multiply<AMC_ISA::Csr>(weight, call);
}
