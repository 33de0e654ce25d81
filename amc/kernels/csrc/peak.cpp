// The ceiling: multiply-adds on registers alone.
#include <algorithm>
#include <chrono>

#include "amc_kernels.h"
#include "vectors.hpp"

extern "C" double AMC_NAME(peak_flops)(void) {
  using namespace AMC_ISA;
  constexpr int CHAINS = 12;
  constexpr int64_t TURNS = 100000;
  vec sums[CHAINS];
  vec factor = all(0.5f), term = all(1.0f);
  for (int i = 0; i < CHAINS; i++) sums[i] = all(static_cast<float>(i));
  double best = 0;
  for (int round = 0; round < 5; round++) {
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t turn = 0; turn < TURNS; turn++) {
      AMC_UNROLL
      for (int i = 0; i < CHAINS; i++) {
        sums[i] = sums[i] * factor + term;
#if defined(__x86_64__)
        asm volatile("" : "+v"(sums[i]));
#else
        asm volatile("" : "+w"(sums[i]));
#endif
      }
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    best = std::max(best, 2.0 * LANES * CHAINS * TURNS / seconds);
  }
  return best;
}
