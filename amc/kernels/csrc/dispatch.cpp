// The C interface: a table of functions for each instruction set that was built, one of them in use.
//
// AMC_BUILT lists the instruction sets as X(name), slowest first; the build defines it.

#include <atomic>
#include <cstring>

// The only symbols that leave the library; everything else is compiled with hidden visibility.
#pragma GCC visibility push(default)
#include "amc_kernels.h"
#pragma GCC visibility pop

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace {

using Run = int (*)(const amc_weight *, const amc_call *);

struct Table {
  const char *name;
  Run nm, csr, block, nm_gemv, nm_gemv_half, csc_gemv, dense_gemv;
  double (*peak_flops)();
};

} // namespace

#define X(isa)                                                             \
  extern "C" int amc_##isa##_nm(const amc_weight *, const amc_call *);           \
  extern "C" int amc_##isa##_csr(const amc_weight *, const amc_call *);          \
  extern "C" int amc_##isa##_block(const amc_weight *, const amc_call *);        \
  extern "C" int amc_##isa##_nm_gemv(const amc_weight *, const amc_call *);      \
  extern "C" int amc_##isa##_nm_gemv_half(const amc_weight *, const amc_call *); \
  extern "C" int amc_##isa##_csc_gemv(const amc_weight *, const amc_call *);     \
  extern "C" int amc_##isa##_dense_gemv(const amc_weight *, const amc_call *);   \
  extern "C" double amc_##isa##_peak_flops(void);
AMC_BUILT
#undef X

namespace {

const Table tables[] = {
#define X(isa)                                                                                    \
  {#isa,                                                                                          \
   amc_##isa##_nm,                                                                                \
   amc_##isa##_csr,                                                                               \
   amc_##isa##_block,                                                                             \
   amc_##isa##_nm_gemv,                                                                           \
   amc_##isa##_nm_gemv_half,                                                                      \
   amc_##isa##_csc_gemv,                                                                          \
   amc_##isa##_dense_gemv,                                                                        \
   amc_##isa##_peak_flops},
    AMC_BUILT
#undef X
};

bool runs_here(const char *name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 = std::strcmp(name, "avx512") == 0;
  if (avx512 && !(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")))
    return false;
  if (avx512 || std::strcmp(name, "avx2") == 0) {
    // Not every compiler knows f16c by name; avx2 below vouches for the operating system.
    unsigned a, b, c, d;
    const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  }
#else
  (void)name;
#endif
  return true;
}

const Table *fastest() {
  const Table *found = tables;
  for (const Table &table : tables)
    if (runs_here(table.name)) found = &table;
  return found;
}

std::atomic<const Table *> in_use{fastest()};

const Table &now() { return *in_use.load(std::memory_order_relaxed); }

} // namespace

extern "C" {

int amc_nm(const amc_weight *w, const amc_call *c) { return now().nm(w, c); }
int amc_csr(const amc_weight *w, const amc_call *c) { return now().csr(w, c); }
int amc_block(const amc_weight *w, const amc_call *c) { return now().block(w, c); }
int amc_nm_gemv(const amc_weight *w, const amc_call *c) { return now().nm_gemv(w, c); }
int amc_nm_gemv_half(const amc_weight *w, const amc_call *c) { return now().nm_gemv_half(w, c); }
int amc_csc_gemv(const amc_weight *w, const amc_call *c) { return now().csc_gemv(w, c); }
int amc_dense_gemv(const amc_weight *w, const amc_call *c) { return now().dense_gemv(w, c); }
double amc_peak_flops(void) { return now().peak_flops(); }

int amc_abi(void) { return AMC_ABI; }

const char *amc_isa(void) { return now().name; }

const char *amc_isas(void) {
#define X(isa) " " #isa
  return &AMC_BUILT[1];
#undef X
}

int amc_select_isa(const char *isa) {
  for (const Table &table : tables)
    if (std::strcmp(table.name, isa) == 0 && runs_here(isa)) {
      in_use.store(&table, std::memory_order_relaxed);
      return AMC_OK;
    }
  return AMC_BAD_CALL;
}
}
