/*
 * What a compiler is told of this code, in the files themselves, so that any build system builds
 * them, with no flags but its own. Comes before all code and most headers: kernels/bits.h includes it.
 */
#ifndef BNI_COMPILER_H
#define BNI_COMPILER_H

#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L /* sysconf */
#endif

/* BN_PORTABLE, where it is defined, leaves out all that is of one processor family. */
#if defined(__x86_64__) && !defined(BN_PORTABLE)
#define BNI_X86_64 1
#elif defined(__aarch64__) && !defined(BN_PORTABLE)
#define BNI_AARCH64 1
#endif

#define BNI_PRAGMA(...) _Pragma(#__VA_ARGS__)

/*
 * Arithmetic is what is written, whatever else was asked for: this code is about NaN, Inf and the order of
 * sums, a fused multiply-add happens where it says so, and traps are possible.
 *
 * Loops over data are of vectors already; those over features are plain ones, which the compiler
 * vectorizes. All files have the same options, as GCC does not inline across others. Between what
 * begins and ends for an instruction set its instructions are used; immintrin.h comes before.
 */
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wignored-pragmas" /* not every target has this one */
#pragma float_control(precise, on)
#pragma clang diagnostic pop
#pragma STDC FP_CONTRACT OFF
#pragma clang fp exceptions(maytrap)
/* Loops over features are not vectorized then, which it remarks on. */
#pragma clang diagnostic ignored "-Wpass-failed"
#define BNI_BEGIN_SET(set)                                                                         \
    BNI_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define BNI_END_SET BNI_PRAGMA(clang attribute pop)
#elif defined(__GNUC__)
#ifdef __OPTIMIZE__
#pragma GCC optimize("O2", "tree-vectorize", "vect-cost-model=dynamic")
#endif
#pragma GCC optimize("fp-contract=off", "no-unsafe-math-optimizations", "no-finite-math-only",     \
                     "no-associative-math", "no-reciprocal-math", "signed-zeros", "trapping-math")
#define BNI_BEGIN_SET(set) _Pragma("GCC push_options") BNI_PRAGMA(GCC target(set))
#define BNI_END_SET        _Pragma("GCC pop_options")
#endif

/* A function whose frame is gone when it returns, however much is inlined: stack is promised to be small. */
#ifdef __GNUC__
#define BNI_OWN_FRAME __attribute__((noinline))
#else
#define BNI_OWN_FRAME
#endif

/* A root sets no errno: it is one instruction then, and loops with it are vectorized. */
#include <math.h>
double sqrt(double) __attribute__((const));

#endif
