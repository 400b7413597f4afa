// What this x86 processor and its operating system run. Asked of the processor itself:
// __builtin_cpu_supports reads a table that not every compiler's runtime fills, Zig's for one, and
// would then leave all but the baseline unused.
#pragma once

#ifdef PDREC_X86_KERNELS
#include <cpuid.h>

#include <cstdint>

namespace pdrec {

struct Processor {
  bool avx2;    // with fma, bmi and popcnt
  bool avx512;  // f, bw, dq and vl, beside those
};

inline Processor processor() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return {false, false};
  const unsigned basic = bit_FMA | bit_POPCNT | bit_OSXSAVE | bit_AVX;
  if ((ecx & basic) != basic) return {false, false};
  // Which registers the operating system saves: bits 1 and 2 for 256 bits, 5 to 7 for 512.
  std::uint32_t saved = 0, high = 0;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return {false, false};
  const unsigned wide = bit_AVX2 | bit_BMI;
  const unsigned widest = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  const bool avx2 = (saved & 0x06) == 0x06 && (ebx & wide) == wide;
  return {avx2, avx2 && (saved & 0xe0) == 0xe0 && (ebx & widest) == widest};
}

}  // namespace pdrec
#endif
