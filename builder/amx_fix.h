// Force-included while llama.cpp is compiled for a CPU with AMX.
//
// GCC before 11.5, 12.4 and 13.3 tells its optimizer that _tile_loadconfig reads 8 of the 64 bytes it is given, so
// the stores of the others may be left out and the instruction faults: every prompt ends in a segmentation fault
// (https://gcc.gnu.org/PR114098). This definition names all 64.
#pragma once
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
#endif
