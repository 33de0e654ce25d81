// The ceiling: multiply-adds on registers alone.
#include <algorithm>
#include <chrono>

#include "amc_kernels.h"
#include "vectors.hpp"

namespace AMC_ISA {
namespace {

#if defined(__x86_64__)
#define AMC_IN_REGISTER(v) asm volatile("" : "+v"(v))
#else
#define AMC_IN_REGISTER(v) asm volatile("" : "+w"(v))
#endif

// A dozen sums that do not wait for one another: more than two units times their latency.
double once() {
  constexpr int SUMS = 12;
  constexpr int64_t TURNS = 50000;
  const vec factor = all(0.5f), term = all(1.0f);
  // Variables, not an array: an array would be kept in memory.
  vec a = all(0), b = all(1), c = all(2), d = all(3), e = all(4), f = all(5);
  vec g = all(6), h = all(7), i = all(8), j = all(9), k = all(10), l = all(11);
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t turn = 0; turn < TURNS; turn++) {
#define AMC_TURN(v)      \
  v = v * factor + term; \
  AMC_IN_REGISTER(v);
    AMC_TURN(a) AMC_TURN(b) AMC_TURN(c) AMC_TURN(d) AMC_TURN(e) AMC_TURN(f)
    AMC_TURN(g) AMC_TURN(h) AMC_TURN(i) AMC_TURN(j) AMC_TURN(k) AMC_TURN(l)
#undef AMC_TURN
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return 2.0 * LANES * SUMS * TURNS / seconds;
}

}  // namespace
}  // namespace AMC_ISA

extern "C" double AMC_NAME(peak_flops)(void) {
  double best = 0;
  for (int round = 0; round < 5; round++) best = std::max(best, AMC_ISA::once());
  return best;
}
