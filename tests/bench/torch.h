/* PyTorch as a contestant: torch_bench.py, another program, asked for a sample when it is its
 * turn. */
#ifndef BN_BENCH_TORCH_H
#define BN_BENCH_TORCH_H

#include "contestant.h"

typedef struct bench_torch bench_torch;

/* Starts the program; exits where it does not answer. */
bench_torch *torch_start(const char *program);
void torch_end(bench_torch *torch);

/* Its name and version. */
const char *torch_version(const bench_torch *torch);

/* Prepares one case; false where PyTorch has nothing for the type. The program has one at a time. */
bool torch_make(bench_contestant *made, bench_torch *torch, const bench_problem *problem,
                bench_direction d, int threads);

#endif
