// What this processor can run; compiled for any processor.
#pragma GCC visibility push(default)
#include "scoring.h"
#pragma GCC visibility pop

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

bool has_tiles() {
#if defined(AMC_TILES) && defined(SYS_arch_prctl)
  unsigned a, b, c, d;
  constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24, AVX512_BF16 = 1u << 5;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & AMX_BF16) == 0 || (d & AMX_TILE) == 0)
    return false;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || (a & AVX512_BF16) == 0) return false;
  constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // of Linux's arch_prctl
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
  return false;
#endif
}

int find_level() {
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return !avx512 ? 0 : has_tiles() ? 2 : 1;
}

}  // namespace

extern "C" int amc_scoring_level(void) {
  static const int level = find_level();
  return level;
}

extern "C" int amc_scoring_abi(void) { return AMC_SCORING_ABI; }

#ifndef AMC_TILES
extern "C" int amc_tiles(const amc_layer *) { return AMC_SCORING_BAD_CALL; }
#endif
