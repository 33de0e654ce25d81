// The packed forms of amc_kernels.h, written down a second time; see layers.hpp, which includes this.
#pragma once

inline float weight_value(const Layer &layer, std::mt19937_64 &random) {
  if (layer.odd && pick(random, 0, 200) == 0)
    return pick(random, 0, 1) ? -std::numeric_limits<float>::infinity()
                              : std::numeric_limits<float>::quiet_NaN();
  return small(random);
}

// A random IEEE half and its value; small ones and zero included.
inline uint16_t half_value(std::mt19937_64 &random, double &value) {
  const int64_t exponent = pick(random, 0, 15), fraction = pick(random, 0, 1023);
  const int64_t sign = pick(random, 0, 1);
  value = exponent ? std::ldexp(1.0 + fraction / 1024.0, static_cast<int>(exponent) - 15)
                   : std::ldexp(fraction / 1024.0, -14);
  if (sign) value = -value;
  return static_cast<uint16_t>(sign << 15 | exponent << 10 | fraction);
}

template <typename T>
std::unique_ptr<Guarded<T>> array(const std::vector<T> &from, std::size_t spare, Place place) {
  auto made = std::make_unique<Guarded<T>>(from.size() + spare, place);
  std::copy(from.begin(), from.end(), made->data());
  return made;
}

// `keep` different places of 4, ascending.
inline void places(std::mt19937_64 &random, int64_t keep, int out[4]) {
  int64_t taken = 0;
  for (int place = 0; place < 4; ++place)
    if (pick(random, 1, 4 - place) <= keep - taken) out[taken++] = place;
}

inline void pack_nm(const Layer &l, std::mt19937_64 &random, Place place, Packed &packed) {
  const int64_t channels = up(l.channels, 4);
  packed.depth = l.kernel_h * l.kernel_w * channels;
  packed.block = 64 * pick(random, 1, 4);
  packed.keep = pick(random, 1, 2);
  std::vector<float> values;
  std::vector<uint32_t> words;
  for (int64_t from = 0; from < packed.depth; from += packed.block) {
    const int64_t to = std::min(from + packed.block, packed.depth);
    for (int64_t row = 0; row < l.rows; ++row) {
      int64_t slot = 0;
      for (int64_t d = from; d < to; d += 4) {
        int at[4];
        places(random, packed.keep, at);
        for (int64_t k = 0; k < packed.keep; ++k, ++slot) {
          const int64_t channel = d % channels + at[k];
          const bool stored = channel < l.channels && pick(random, 0, 7);
          values.push_back(stored ? weight_value(l, random) : 0.0f);
          if (slot % 16 == 0) words.push_back(0);
          words.back() |= static_cast<uint32_t>(at[k]) << (2 * (slot % 16));
          packed.entries.push_back({row, d / channels, channel, values.back()});
        }
      }
    }
  }
  packed.values = array(values, 0, place);
  packed.long_indices = array(words, 0, place);
}

// csr, and block with 4 rows a slot.
inline void pack_rows(const Layer &l, int64_t height, std::mt19937_64 &random, Place place,
                      Packed &packed) {
  packed.depth = l.kernel_h * l.kernel_w * l.channels;
  packed.block = pick(random, 0, 1) ? pick(random, 1, 16) * 32 : pick(random, 1, 65536);
  const int64_t density = pick(random, 0, 4); // of 4: none to all
  std::vector<float> values;
  std::vector<uint16_t> indices;
  std::vector<uint32_t> starts = {0};
  for (int64_t from = 0; from < packed.depth; from += packed.block) {
    const int64_t to = std::min(from + packed.block, packed.depth);
    for (int64_t row = 0; row < up(l.rows, height); row += height) {
      const bool empty = pick(random, 0, 9) == 0, full = pick(random, 0, 9) == 0;
      for (int64_t d = from; d < to; ++d) {
        if (!full && (empty || pick(random, 1, 4) > density)) continue;
        indices.push_back(static_cast<uint16_t>(d - from));
        for (int64_t r = row; r < row + height; ++r) {
          values.push_back(r < l.rows ? weight_value(l, random) : 0.0f);
          if (r < l.rows)
            packed.entries.push_back({r, d / l.channels, d % l.channels, values.back()});
        }
      }
      starts.push_back(static_cast<uint32_t>(indices.size()));
    }
  }
  packed.values = array(values, 16, place);
  packed.short_indices = array(indices, 16, place);
  packed.starts = array(starts, 0, place);
}

inline void pack_nm_gemv(const Layer &l, bool half, std::mt19937_64 &random, Place place,
                         Packed &packed) {
  packed.depth = up(l.channels, 4);
  packed.keep = pick(random, 1, 2);
  std::vector<float> values;
  std::vector<uint16_t> halves;
  std::vector<uint32_t> words;
  for (int64_t rows = 0; rows < up(l.rows, 16); rows += 16)
    for (int64_t d = 0; d < packed.depth; d += 4) {
      int at[16][4];
      for (auto &row : at) places(random, packed.keep, row);
      for (int64_t k = 0; k < packed.keep; ++k) {
        words.push_back(0);
        for (int64_t i = 0; i < 16; ++i) {
          const int64_t row = rows + i, channel = d + at[i][k];
          const bool stored = row < l.rows && channel < l.channels && pick(random, 0, 7);
          double value = 0;
          if (half) {
            const uint16_t bits = half_value(random, value);
            halves.push_back(stored ? bits : 0);
          } else {
            values.push_back(stored ? weight_value(l, random) : 0.0f);
            value = values.back();
          }
          words.back() |= static_cast<uint32_t>(at[i][k]) << (2 * i);
          if (row < l.rows) packed.entries.push_back({row, 0, channel, stored ? value : 0.0});
        }
      }
    }
  if (half)
    packed.halves = array(halves, 0, place);
  else
    packed.values = array(values, 0, place);
  packed.long_indices = array(words, 0, place);
}

inline void pack_csc(const Layer &l, std::mt19937_64 &random, Place place, Packed &packed) {
  packed.depth = l.channels;
  packed.skips_zeros = true;
  const int64_t density = pick(random, 0, 4);
  std::vector<float> values;
  std::vector<uint16_t> indices;
  std::vector<uint32_t> starts = {0};
  for (int64_t d = 0; d < packed.depth; ++d) {
    for (int64_t row = 0; row < l.rows; ++row) {
      if (pick(random, 1, 4) > density) continue;
      indices.push_back(static_cast<uint16_t>(row));
      values.push_back(weight_value(l, random));
      packed.entries.push_back({row, 0, d, values.back()});
    }
    starts.push_back(static_cast<uint32_t>(indices.size()));
  }
  packed.values = array(values, 16, place);
  packed.short_indices = array(indices, 16, place);
  packed.starts = array(starts, 0, place);
}

inline void pack_dense(const Layer &l, std::mt19937_64 &random, Place place, Packed &packed) {
  packed.depth = l.channels;
  std::vector<float> values;
  for (int64_t row = 0; row < l.rows; ++row)
    for (int64_t d = 0; d < packed.depth; ++d) {
      values.push_back(weight_value(l, random));
      packed.entries.push_back({row, 0, d, values.back()});
    }
  packed.values = array(values, 0, place);
}

inline Packed pack(Kind kind, const Layer &layer, std::mt19937_64 &random, Place place) {
  Packed packed = {};
  if (kind == Kind::nm) pack_nm(layer, random, place, packed);
  if (kind == Kind::csr) pack_rows(layer, 1, random, place, packed);
  if (kind == Kind::block) pack_rows(layer, 4, random, place, packed);
  if (kind == Kind::nm_gemv) pack_nm_gemv(layer, false, random, place, packed);
  if (kind == Kind::nm_gemv_half) pack_nm_gemv(layer, true, random, place, packed);
  if (kind == Kind::csc_gemv) pack_csc(layer, random, place, packed);
  if (kind == Kind::dense_gemv) pack_dense(layer, random, place, packed);
  return packed;
}
