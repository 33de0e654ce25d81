// 4x1 blocks: four consecutive output rows share their non-zero columns, so that one load of X feeds
// four multiply-adds.
#include "engine.hpp"

namespace AMC_ISA {
namespace {

constexpr int HEIGHT = 4;

struct Block {
  static constexpr int64_t CHANNEL_UNIT = 1, ROW_UNIT = 8;

  static constexpr int stride(int vectors) { return vectors * LANES; }
  static int most_vectors(const amc_weight &) { return REGISTERS == 32 ? 6 : 3; }

  template <int V>
  static void rows(const amc_weight &w, int64_t all_rows, int64_t block, int64_t last, int64_t row, int64_t end,
                   const float *x, const Target &to) {
    const float *all_values = static_cast<const float *>(w.values);
    const uint16_t *all_offsets = static_cast<const uint16_t *>(w.indices);
    const int64_t quads = (all_rows + HEIGHT - 1) / HEIGHT;
    for (; row < end; row += HEIGHT) {
      const int64_t real = std::min<int64_t>(HEIGHT, end - row);
      vec sums[HEIGHT][V];
      AMC_UNROLL
      for (int r = 0; r < HEIGHT; r++) begin_row<V>(sums[r], to, row + std::min<int64_t>(r, real - 1));
      for (int64_t b = block; b < last; b++) {
        const float *piece = x + (b - block) * w.block * stride(V);
        const uint32_t *starts = w.starts + b * quads + row / HEIGHT;
        const float *values = all_values + int64_t{HEIGHT} * starts[0];
        for (const uint16_t *offset = all_offsets + starts[0]; offset < all_offsets + starts[1];
             offset++, values += HEIGHT) {
          const float *column = piece + int64_t{*offset} * stride(V);
          vec weights[HEIGHT];
          AMC_UNROLL
          for (int r = 0; r < HEIGHT; r++) weights[r] = all(values[r]);
          AMC_UNROLL
          for (int j = 0; j < V; j++) {
            const vec pixels = load(column + j * LANES);
            AMC_UNROLL
            for (int r = 0; r < HEIGHT; r++) sums[r][j] += weights[r] * pixels;
          }
        }
      }
      AMC_UNROLL
      for (int r = 0; r < HEIGHT; r++)
        if (r < real) end_row<V>(sums[r], to, row + r);
    }
  }
};

}  // namespace
}  // namespace AMC_ISA

extern "C" int AMC_NAME(block)(const amc_weight *weight, const amc_call *call) {
  return AMC_ISA::multiply<AMC_ISA::Block>(weight, call);
}
