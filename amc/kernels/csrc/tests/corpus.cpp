// Runs every family of the library over random layers, for every instruction set of this processor,
// against sums in double precision: no Python, exact-length arrays, poisoned outputs.
//
//   amc_corpus [CASES] [SEED] [heap]
//
// `heap` puts no array at the edge of a page: emulators touch masked-off lanes beyond it.
// Prints what ran, and which instruction sets were built but never executed. Leaves with 1 on the
// first wrong number; memory faults end the process by themselves.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "amc_kernels.h"
#include "layers.hpp"

namespace {

using Run = int (*)(const amc_weight *, const amc_call *);

struct Family {
  const char *name;
  Run run;
  Kind kind;
};

const Family families[] = {
    {"nm", amc_nm, Kind::nm},
    {"csr", amc_csr, Kind::csr},
    {"block", amc_block, Kind::block},
    {"nm_gemv", amc_nm_gemv, Kind::nm_gemv},
    {"nm_gemv_half", amc_nm_gemv_half, Kind::nm_gemv_half},
    {"csc_gemv", amc_csc_gemv, Kind::csc_gemv},
    {"dense_gemv", amc_dense_gemv, Kind::dense_gemv},
};

// The reference: for each output the sum, and the sum of magnitudes that the error is held against.
struct Sums {
  std::vector<double> sum, size;
};

Sums reference(const Layer &layer, const Packed &packed, const float *x, const float *bias) {
  const int64_t pixels = layer.out_height * layer.out_width;
  Sums sums;
  sums.sum.assign(layer.batch * layer.rows * pixels, 0.0);
  sums.size = sums.sum;
  for (const Entry &entry : packed.entries)
    for (int64_t n = 0; n < layer.batch; ++n)
      for (int64_t p = 0; p < pixels; ++p) {
        const int64_t i = p / layer.out_width * layer.stride_h - layer.pad_h +
                          entry.tap / layer.kernel_w * layer.dilation_h;
        const int64_t j = p % layer.out_width * layer.stride_w - layer.pad_w +
                          entry.tap % layer.kernel_w * layer.dilation_w;
        const bool inside = entry.channel < layer.channels && i >= 0 && i < layer.height &&
                            j >= 0 && j < layer.width;
        const double a = inside ? x[layer.x_at(n, entry.channel, i, j)] : 0.0;
        if (packed.skips_zeros && a == 0.0) continue;
        const int64_t at = (n * layer.rows + entry.row) * pixels + p;
        sums.sum[at] += entry.value * a;
        sums.size[at] += std::fabs(entry.value * a);
      }
  for (int64_t at = 0; at < static_cast<int64_t>(sums.sum.size()); ++at) {
    const double b = bias ? bias[at / pixels % layer.rows] : 0.0;
    sums.sum[at] += b;
    sums.size[at] += std::fabs(b);
    if (layer.relu && sums.sum[at] < 0) sums.sum[at] = 0;
  }
  return sums;
}

bool agrees(double found, double wanted, double size) {
  if (std::isnan(wanted)) return std::isnan(found);
  if (std::isinf(wanted)) return found == wanted;
  return std::fabs(found - wanted) <= 1e-5 * size;
}

// 1: right, 0: refused with nothing written, -1: wrong.
int check(const Family &family, std::mt19937_64 &random, Place place, double &worst) {
  const Layer layer = random_layer(family.kind, random);
  Packed packed = pack(family.kind, layer, random, place);
  Guarded<float> x(layer.x_length(), place), y(layer.y_length(), place);
  Guarded<float> bias(layer.rows, place);
  fill_activations(layer, x, random);
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = small(random);
  const float *with_bias = layer.bias ? bias.data() : nullptr;
  // A NaN that no arithmetic makes: whether an element was written can be told even from a NaN.
  std::memset(y.data(), 0xff, y.size() * sizeof(float));

  const amc_weight weight = packed.weight();
  const amc_call call = layer.call(x.data(), y.data(), with_bias);
  const int code = family.run(&weight, &call);
  const Sums sums = reference(layer, packed, x.data(), with_bias);

  std::vector<bool> written(y.size(), false);
  const int64_t pixels = layer.out_height * layer.out_width;
  for (int64_t at = 0; code == AMC_OK && at < static_cast<int64_t>(sums.sum.size()); ++at) {
    const int64_t n = at / pixels / layer.rows, row = at / pixels % layer.rows, p = at % pixels;
    const int64_t where = layer.y_at(n, row, p / layer.out_width, p % layer.out_width);
    written[where] = true;
    if (!agrees(y[where], sums.sum[at], sums.size[at]) || is_poison(y[where])) {
      std::printf("  output (%ld, %ld, pixel %ld) is %.9g, but %.9g was expected (size %.3g)\n",
                  long(n), long(row), long(p), y[where], sums.sum[at], sums.size[at]);
      layer.print();
      return -1;
    }
    if (sums.size[at] > 0 && std::isfinite(sums.sum[at]))
      worst = std::max(worst, std::fabs(y[where] - sums.sum[at]) / sums.size[at]);
  }
  for (std::size_t i = 0; i < y.size(); ++i)
    if (!written[i] && !is_poison(y[i])) {
      std::printf("  element %zu of y was written, which is not part of the output\n", i);
      layer.print();
      return -1;
    }
  if (!x.surroundings_intact() || !y.surroundings_intact() || !bias.surroundings_intact() ||
      !packed.surroundings_intact()) {
    std::printf("  memory around an array was written\n");
    layer.print();
    return -1;
  }
  return code == AMC_OK;
}

bool run_all(const char *isa, int cases, unsigned long seed, int kinds) {
  for (const Family &family : families) {
    std::mt19937_64 random(seed);
    int right = 0, refused = 0;
    double worst = 0;
    for (int i = 0; i < cases; ++i) {
      const int verdict = check(family, random, static_cast<Place>(i % kinds), worst);
      if (verdict < 0) {
        std::printf("%s %s: case %d of seed %lu is wrong\n", isa, family.name, i, seed);
        return false;
      }
      (verdict ? right : refused)++;
    }
    std::printf("%-9s %-13s %5d right, %d refused, largest error %.1e of |W||x|\n", isa,
                family.name, right, refused, worst);
    if (right == 0) return false;
  }
  const double peak = amc_peak_flops();
  return std::isfinite(peak) && peak > 0;
}

} // namespace

int main(int count, char **arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 400;
  const unsigned long seed = count > 2 ? std::strtoul(arguments[2], nullptr, 10) : 0;
  const int kinds = count > 3 && std::string(arguments[3]) == "heap" ? 1 : 3; // of Place
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::string never;
  const std::string built = amc_isas();
  for (std::size_t from = 0; from < built.size();) {
    const std::size_t to = std::min(built.find(' ', from), built.size());
    const std::string isa = built.substr(from, to - from);
    from = to + 1;
    if (amc_select_isa(isa.c_str()) != AMC_OK)
      never += " " + isa;
    else if (isa != amc_isa() || !run_all(isa.c_str(), cases, seed, kinds))
      return 1;
  }
  if (amc_select_isa("none") != AMC_BAD_CALL) return 1;
  std::printf("built but NEVER EXECUTED here:%s\n", never.empty() ? " none" : never.c_str());
  return 0;
}
