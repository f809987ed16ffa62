/* See torch.h. The conversation is lines through two pipes; torch_bench.py has its grammar. */
#include "torch.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* More pages faulted in by a call than what else a process does. */
#define FEW_FAULTS 16.0

struct bench_torch {
    const char *program;
    pid_t process;
    FILE *requests, *answers;
    char version[64];
    char name[CASE_NAME]; /* of the case */
    int threads;
    double faults; /* pages that a call faulted in, of those made last */
};

static void fail(const char *program, const char *why) {
    fprintf(stderr, "bench: %s: %s\n", program, why);
    exit(EXIT_FAILURE);
}

static void answer(bench_torch *t, char *line, int size) {
    if (fflush(t->requests) != 0 || fgets(line, size, t->answers) == NULL) {
        fail(t->program, "it has ended");
    }
    line[strcspn(line, "\n")] = '\0';
}

static void become(const char *program, const int requests[2], const int answers[2]) {
    if (dup2(requests[0], STDIN_FILENO) < 0 || dup2(answers[1], STDOUT_FILENO) < 0) {
        _exit(EXIT_FAILURE);
    }
    close(requests[0]);
    close(requests[1]);
    close(answers[0]);
    close(answers[1]);
    execl(program, program, (char *)NULL);
    perror(program);
    _exit(EXIT_FAILURE);
}

bench_torch *torch_start(const char *program) {
    int requests[2], answers[2];
    bench_torch *t = bench_allocate(sizeof *t);
    t->program = program;
    if (pipe(requests) != 0 || pipe(answers) != 0 || (t->process = fork()) < 0) {
        fail(program, "no pipe or process for it");
    }
    if (t->process == 0) {
        become(program, requests, answers);
    }
    close(requests[0]);
    close(answers[1]);
    signal(SIGPIPE, SIG_IGN); /* a program that has ended is told of by answer */
    t->requests = fdopen(requests[1], "w");
    t->answers = fdopen(answers[0], "r");
    if (t->requests == NULL || t->answers == NULL) {
        fail(program, "no memory");
    }
    answer(t, t->version, sizeof t->version);
    return t;
}

void torch_end(bench_torch *t) {
    fclose(t->requests); /* the program ends with its input */
    fclose(t->answers);
    waitpid(t->process, NULL, 0);
    free(t);
}

const char *torch_version(const bench_torch *t) {
    return t->version;
}

static double seconds_of(void *state, size_t calls) {
    bench_torch *t = state;
    char line[128];
    double seconds;
    fprintf(t->requests, "%zu\n", calls);
    answer(t, line, sizeof line);
    if (sscanf(line, "%lf %lf", &seconds, &t->faults) != 2 || !(seconds > 0)) {
        fail(t->program, line);
    }
    t->faults /= (double)calls;
    return seconds;
}

static void end(void *state) {
    const bench_torch *t = state;
    if (t->faults > FEW_FAULTS) {
        fprintf(stderr,
                "bench: %s, %d threads: each call of PyTorch was charged for %.0f fresh pages\n",
                t->name, t->threads, t->faults);
    }
}

bool torch_make(bench_contestant *made, bench_torch *t, const bench_problem *p, bench_direction d,
                int threads) {
    char line[128];
    case_name(p->shape, d, t->name);
    t->threads = threads;
    fprintf(t->requests, "%s %d %s\n", t->name, threads, dtype_name(p->dtype));
    answer(t, line, sizeof line);
    if (strcmp(line, "none") == 0) {
        return false;
    }
    if (strcmp(line, "ready") != 0) {
        fail(t->program, line);
    }
    *made = (bench_contestant){
        .name = "PyTorch", .role = ROLE_PEER, .state = t, .elsewhere = seconds_of, .end = end};
    return true;
}
