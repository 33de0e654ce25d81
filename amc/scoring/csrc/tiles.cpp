// Convolutions as products of bfloat16 tiles whose sums are those of float32; scoring.h has the arithmetic.
//
// Output pixels are taken 32 at a time. Their inputs are laid out side by side as a panel, which stays in the
// first- or second-level cache while it meets all weights, two tiles of 16 output channels at a time.
#pragma GCC visibility push(default)
#include "scoring.h"
#pragma GCC visibility pop

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "finish.hpp"

namespace {

constexpr int SIDE = 16, PIXELS = 2 * SIDE, DEPTH = 32, PARTS = 3;
constexpr int64_t TILE = SIDE * DEPTH, BLOCK = PARTS * TILE;  // bfloat16 in each
constexpr int64_t PIECE = 32;                                 // bfloat16 copied at once

// The three bfloat16 whose sum a number is, `gap` apart.
inline void split(__m512 v, __mmask16 mask, uint16_t *to, int64_t gap) {
#pragma GCC unroll 3
  for (int part = 0; part < PARTS; part++) {
    const __m256i high = (__m256i)_mm512_cvtneps_pbh(v);
    _mm256_mask_storeu_epi16(to + part * gap, mask, high);
    v = _mm512_sub_ps(v, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16)));
  }
}

inline void split_row(const float *from, int64_t count, uint16_t *to, int64_t gap) {
  for (int64_t i = 0; i < count; i += LANES) {
    const __mmask16 mask = first(count - i);
    split(_mm512_maskz_loadu_ps(mask, from + i), mask, to + i, gap);
  }
}

struct Free {
  void operator()(uint16_t *p) const { std::free(p); }
};
using Scratch = std::unique_ptr<uint16_t, Free>;

Scratch zeros(int64_t count) {
  const size_t bytes = (count * sizeof(uint16_t) + 63) / 64 * 64;
  void *p = std::aligned_alloc(64, bytes);
  if (p) std::memset(p, 0, bytes);
  return Scratch(static_cast<uint16_t *>(p));
}

struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes_a_row[16] = {};
  uint8_t rows[16] = {};
  TileShapes() {
    for (int tile = 0; tile < 8; tile++) bytes_a_row[tile] = 64, rows[tile] = SIDE;
  }
};

// Tiles 0 to 3 are sums, 4 and 5 lower and upper pixels, 6 and 7 weights. Macros, because GCC wants a tile's
// number as it is written.
#define AMC_PIXELS(part)                \
  _tile_loadd(4, part + k, bytes);      \
  _tile_loadd(5, part + k + upper, bytes);
#define AMC_WEIGHT(tile, part) _tile_loadd(tile, w + part * TILE, 64);
#define AMC_WEIGHTS(part) \
  AMC_WEIGHT(6, part)     \
  _tile_loadd(7, w + next + part * TILE, 64);
#define AMC_EVEN_SUMS(weight)   \
  _tile_dpbf16ps(0, 4, weight); \
  _tile_dpbf16ps(2, 5, weight);
#define AMC_ODD_SUMS(weight)    \
  _tile_dpbf16ps(1, 4, weight); \
  _tile_dpbf16ps(3, 5, weight);
#define AMC_FOUR_SUMS \
  AMC_EVEN_SUMS(6)    \
  AMC_ODD_SUMS(7)

// Up to 32 output pixels: parts[pixel][depth], the three parts one behind the other.
class Panel {
 public:
  Panel(const amc_layer &layer, int64_t depth)
      : l_(layer), blocks_((depth + DEPTH - 1) / DEPTH), row_(blocks_ * DEPTH),
        part_(PIXELS * row_), at_(zeros(PARTS * part_)) {}

  bool there() const { return at_ != nullptr; }
  int64_t part() const { return part_; }
  uint16_t *next() { return at_.get() + count_ * row_; }

  // Takes in the row that `next` gave; a full panel is multiplied.
  void taken() {
    if (++count_ == PIXELS) multiply();
  }

  void multiply() {
    const auto *weight = static_cast<const uint16_t *>(l_.weight);
    // GCC does not know that loading a tile reads memory: the panel must be written by now.
    asm volatile("" ::: "memory");
    for (int64_t channel = 0; channel < l_.rows; channel += 2 * SIDE, weight += 2 * blocks_ * BLOCK) {
      const bool two = channel + SIDE < l_.rows;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      two ? two_wide(weight) : one_wide(weight);
      alignas(64) float sums[4][SIDE * SIDE];
      _tile_stored(0, sums[0], 64);
      _tile_stored(1, sums[1], 64);
      _tile_stored(2, sums[2], 64);
      _tile_stored(3, sums[3], 64);
      finish(sums, channel, two);
    }
    done_ += count_;
    count_ = 0;
  }

 private:
  // Sums 0 and 2 are of the lower and upper pixels and the first 16 channels, 1 and 3 of the next 16. Parts are
  // taken in an order that loads few tiles.
  void two_wide(const uint16_t *weight) const {
    const int64_t bytes = row_ * 2, upper = SIDE * row_, next = blocks_ * BLOCK;
    const uint16_t *high = at_.get(), *middle = high + part_, *low = middle + part_;
    for (int64_t block = 0; block < blocks_; block++) {
      const uint16_t *w = weight + block * BLOCK;
      const int64_t k = block * DEPTH;
      AMC_PIXELS(high) AMC_WEIGHTS(2) AMC_FOUR_SUMS
      AMC_WEIGHTS(1) AMC_FOUR_SUMS
      AMC_PIXELS(middle) AMC_FOUR_SUMS
      AMC_WEIGHTS(0) AMC_FOUR_SUMS
      AMC_PIXELS(low) AMC_FOUR_SUMS
      AMC_PIXELS(high) AMC_FOUR_SUMS
    }
  }

  // 16 channels alone: their sums are in two halves, 0 + 1 and 2 + 3, so that none waits for its own last product.
  void one_wide(const uint16_t *weight) const {
    const int64_t bytes = row_ * 2, upper = SIDE * row_;
    const uint16_t *high = at_.get(), *middle = high + part_, *low = middle + part_;
    for (int64_t block = 0; block < blocks_; block++) {
      const uint16_t *w = weight + block * BLOCK;
      const int64_t k = block * DEPTH;
      AMC_PIXELS(high) AMC_WEIGHT(6, 2) AMC_WEIGHT(7, 1)
      AMC_EVEN_SUMS(6) AMC_ODD_SUMS(7)
      AMC_WEIGHT(6, 0) AMC_EVEN_SUMS(6)
      AMC_PIXELS(middle) AMC_ODD_SUMS(7) AMC_EVEN_SUMS(6)
      AMC_PIXELS(low) AMC_ODD_SUMS(6)
    }
  }

  void finish(const float (&sums)[4][SIDE * SIDE], int64_t channel, bool two) const {
    for (int wide = 0; wide <= (two ? 1 : 0); wide++) {
      const Finish last(l_, channel + wide * SIDE);
      int64_t at = done_ * l_.rows + channel + wide * SIDE;
      for (int pixel = 0; pixel < count_; pixel++, at += l_.rows) {
        const int tile = pixel / SIDE * 2, row = pixel % SIDE * SIDE;
        __m512 sum = _mm512_load_ps(sums[tile + wide] + row);
        if (!two) sum = _mm512_add_ps(sum, _mm512_load_ps(sums[tile + 1] + row));
        last.store(l_.y + at, l_.other ? l_.other + at : nullptr, sum);
      }
    }
  }

  const amc_layer &l_;
  const int64_t blocks_, row_, part_;
  const Scratch at_;
  int count_ = 0;
  int64_t done_ = 0;  // pixels before this panel
};

// An image is its own row of inputs for every pixel.
void pointwise(const amc_layer &l, Panel &panel) {
  const int64_t pixels = l.batch * l.height * l.width;
  for (int64_t i = 0; i < pixels; i++) {
    split_row(l.x + i * l.channels, l.channels, panel.next(), panel.part());
    panel.taken();
  }
}

// An image is split once, into a frame of zeros; each pixel then copies what its taps read.
bool spatial(const amc_layer &l, Panel &panel) {
  const int64_t width = l.width + 2 * l.pad_w, row = width * l.channels;
  const int64_t plane = row * (l.height + 2 * l.pad_h), run = l.kernel_w * l.channels;
  const Scratch frame = zeros(PARTS * plane);
  if (!frame) return false;
  const int64_t whole = run / PIECE * PIECE;
  const auto rest = static_cast<__mmask32>((uint64_t{1} << (run - whole)) - 1u);
  for (int64_t image = 0; image < l.batch; image++) {
    for (int64_t iy = 0; iy < l.height; iy++)
      split_row(l.x + (image * l.height + iy) * l.width * l.channels, l.width * l.channels,
                frame.get() + (iy + l.pad_h) * row + l.pad_w * l.channels, plane);
    for (int64_t oy = 0; oy < l.out_height; oy++)
      for (int64_t ox = 0; ox < l.out_width; ox++) {
        uint16_t *to = panel.next();
        const uint16_t *from = frame.get() + oy * l.stride_h * row + ox * l.stride_w * l.channels;
        for (int64_t ky = 0; ky < l.kernel_h; ky++, to += run, from += row)
          for (int part = 0; part < PARTS; part++) {
            const uint16_t *source = from + part * plane;
            uint16_t *target = to + part * panel.part();
            for (int64_t i = 0; i < whole; i += PIECE)
              _mm512_storeu_si512(target + i, _mm512_loadu_si512(source + i));
            if (rest)
              _mm512_mask_storeu_epi16(target + whole, rest,
                                       _mm512_maskz_loadu_epi16(rest, source + whole));
          }
        panel.taken();
      }
  }
  return true;
}

}  // namespace

extern "C" int amc_tiles(const amc_layer *layer) {
  const amc_layer &l = *layer;
  if (amc_scoring_level() < 2) return AMC_SCORING_BAD_CALL;
  Panel panel(l, l.kernel_h * l.kernel_w * l.channels);
  if (!panel.there()) return AMC_SCORING_NO_MEMORY;
  const TileShapes shapes;
  _tile_loadconfig(&shapes);
  const bool single = l.kernel_h * l.kernel_w * l.stride_h * l.stride_w == 1 && l.pad_h + l.pad_w == 0;
  bool ran = true;
  if (single)
    pointwise(l, panel);
  else
    ran = spatial(l, panel);
  if (ran) panel.multiply();
  _tile_release();
  return ran ? AMC_SCORING_OK : AMC_SCORING_NO_MEMORY;
}
