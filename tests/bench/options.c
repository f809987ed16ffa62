/* See options.h. */
#include "options.h"

#include <getopt.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: bench [option...]\n"
    "Times batch normalization against what memory allows and against its peers.\n"
    "  --filter TEXT       only cases whose name, \"NxCxS direction\", contains TEXT: 16384x,\n"
    "                      backward, \"128x256x1 forward\"\n"
    "  --dtype TYPE        of x, dy, y and dx: f32, bf16 or f16 [f32]\n"
    "  --threads N[,M...]  the numbers of threads to measure with [1, and all there are]\n"
    "  --seconds S         how long to measure one case with one number of threads [0.5]\n"
    "  --csv FILE          write every contestant's times to FILE\n"
    "  --torch PROGRAM     compare with PyTorch too, whose calls PROGRAM, torch_bench.py, makes\n"
    "  --list              print the names of the cases and exit\n"
    "  --help              print this and exit\n";

static void fail(const char *option, const char *value) {
    fprintf(stderr, "bench: %s: bad value: %s\n", option, value);
    exit(2);
}

static void read_threads(bench_options *o, const char *list) {
    const char *rest = list;
    o->thread_counts = 0;
    do {
        char *end;
        const long threads = strtol(rest, &end, 10);
        if (end == rest || (*end != ',' && *end != '\0') || threads < 1 || threads > 4096 ||
            o->thread_counts == MOST_THREAD_COUNTS) {
            fail("--threads", list);
        }
        o->threads[o->thread_counts++] = (int)threads;
        rest = *end == ',' ? end + 1 : end;
    } while (*rest != '\0');
}

static double read_seconds(const char *text) {
    char *end;
    const double seconds = strtod(text, &end);
    if (end == text || *end != '\0' || !(seconds > 0 && seconds <= 3600)) {
        fail("--seconds", text);
    }
    return seconds;
}

bench_options options_read(int argc, char **argv) {
    const int all = omp_get_num_procs();
    bench_options o = {
        .filter = "", .threads = {1, all}, .thread_counts = all > 1 ? 2 : 1, .seconds = 0.5};

    enum { CSV, TORCH, FILTER, DTYPE, THREADS, SECONDS, LIST, HELP };
    static const struct option known[] = {{"csv", required_argument, NULL, CSV},
                                          {"torch", required_argument, NULL, TORCH},
                                          {"filter", required_argument, NULL, FILTER},
                                          {"dtype", required_argument, NULL, DTYPE},
                                          {"threads", required_argument, NULL, THREADS},
                                          {"seconds", required_argument, NULL, SECONDS},
                                          {"list", no_argument, NULL, LIST},
                                          {"help", no_argument, NULL, HELP},
                                          {NULL, 0, NULL, 0}};
    for (int found; (found = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (found) {
        case CSV:
            o.csv = optarg;
            break;
        case TORCH:
            o.torch = optarg;
            break;
        case FILTER:
            o.filter = optarg;
            break;
        case DTYPE:
            if (!dtype_find(optarg, &o.dtype)) {
                fail("--dtype", optarg);
            }
            break;
        case THREADS:
            read_threads(&o, optarg);
            break;
        case SECONDS:
            o.seconds = read_seconds(optarg);
            break;
        case LIST:
            o.list = true;
            break;
        case HELP:
            fputs(usage, stdout);
            exit(0);
        default: /* getopt_long has said what is wrong */
            fputs(usage, stderr);
            exit(2);
        }
    }
    if (optind < argc) {
        fprintf(stderr, "bench: unknown argument: %s\n%s", argv[optind], usage);
        exit(2);
    }
    return o;
}

bool options_want(const bench_options *o, const bench_shape *shape, bench_direction d) {
    char name[CASE_NAME];
    case_name(shape, d, name);
    return shape_has(shape, d) && strstr(name, o->filter) != NULL;
}
