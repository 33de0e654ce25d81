// Vectors of one instruction set, as GCC's vector extensions, and the few things that they lack.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#define AMC_JOIN4(a, b, c, d) a##b##c##d
#define AMC_NAME2(isa, name) AMC_JOIN4(amc_, isa, _, name)
#define AMC_NAME(name) AMC_NAME2(AMC_ISA, name)
#define AMC_INLINE inline __attribute__((always_inline))
#define AMC_UNROLL _Pragma("GCC unroll 16")

// Every instruction set has its own copy of all that is in this namespace.
namespace AMC_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), may_alias));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float loose_half __attribute__((vector_size(2 * LANES), aligned(4), may_alias));

AMC_INLINE vec load(const float *p) { return *reinterpret_cast<const vec *>(p); }
AMC_INLINE vec load_any(const float *p) { return *reinterpret_cast<const loose *>(p); }
AMC_INLINE void store(float *p, vec v) { *reinterpret_cast<vec *>(p) = v; }
AMC_INLINE void store_any(float *p, vec v) { *reinterpret_cast<loose *>(p) = v; }
AMC_INLINE vec all(float value) { return value - vec{}; }

// NaN stays: a comparison with it is false, so the value itself is kept.
AMC_INLINE vec relu(vec v) { return v < vec{} ? vec{} : v; }

#if defined(__AVX512F__)
AMC_INLINE __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
AMC_INLINE vec load_part(const float *p, int count) {
  return (vec)_mm512_maskz_loadu_ps(first(count), p);
}
AMC_INLINE void store_part(float *p, vec v, int count) {
  _mm512_mask_storeu_ps(p, first(count), (__m512)v);
}
#elif defined(__AVX2__)
AMC_INLINE __m256i first(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
AMC_INLINE vec load_part(const float *p, int count) {
  return (vec)_mm256_maskload_ps(p, first(count));
}
AMC_INLINE void store_part(float *p, vec v, int count) {
  _mm256_maskstore_ps(p, first(count), (__m256)v);
}
#else
AMC_INLINE vec load_part(const float *p, int count) {
  vec v{};
  for (int i = 0; i < count; i++) v[i] = p[i];
  return v;
}
AMC_INLINE void store_part(float *p, vec v, int count) {
  for (int i = 0; i < count; i++) p[i] = v[i];
}
#endif

// Rows become columns: log2(LANES) rounds of exchanges at distance 1, 2, 4, ...
#if defined(__clang__)
template <int DISTANCE, int... I>
AMC_INLINE void exchange_pair(vec &a, vec &b, std::integer_sequence<int, I...>) {
  const vec low = __builtin_shufflevector(a, b, (I & DISTANCE ? LANES + I - DISTANCE : I)...);
  b = __builtin_shufflevector(a, b, (I & DISTANCE ? LANES + I : I + DISTANCE)...);
  a = low;
}
#else
template <int DISTANCE, int... I>
AMC_INLINE void exchange_pair(vec &a, vec &b, std::integer_sequence<int, I...>) {
  const vec low = __builtin_shuffle(a, b, ivec{(I & DISTANCE ? LANES + I - DISTANCE : I)...});
  b = __builtin_shuffle(a, b, ivec{(I & DISTANCE ? LANES + I : I + DISTANCE)...});
  a = low;
}
#endif

template <int DISTANCE>
AMC_INLINE void exchange(vec *rows) {
  if constexpr (DISTANCE < LANES) {
    AMC_UNROLL
    for (int r = 0; r < LANES; r++)
      if (!(r & DISTANCE))
        exchange_pair<DISTANCE>(rows[r], rows[r + DISTANCE], std::make_integer_sequence<int, LANES>{});
    exchange<DISTANCE * 2>(rows);
  }
}

AMC_INLINE void transpose(vec *rows) { exchange<1>(rows); }

}  // namespace AMC_ISA
