/* See imported.h. */
#include "imported.h"

#include "problem.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *path, const char *why) {
    fprintf(stderr, "bench: %s: %s\n", path, why);
    exit(EXIT_FAILURE);
}

/* Says whether the line is a time. */
static bool parse(const char *line, imported_time *time) {
    char shape[32], d[16];
    if (sscanf(line, "%31[^,],%15[^,],%d,%31[^,],%lf", shape, d, &time->threads, time->contestant,
               &time->us) != 5) {
        return false;
    }
    snprintf(time->name, sizeof time->name, "%s %s", shape, d);
    return time->us > 0;
}

bench_imported imported_read(const char *path) {
    bench_imported all = {0};
    size_t room = 0;
    char line[256];
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fail(path, strerror(errno));
    }
    while (fgets(line, sizeof line, file) != NULL) {
        if (line[0] == '#' || strncmp(line, "shape,", 6) == 0) {
            continue;
        }
        if (all.count == room) {
            room = 2 * room + 64;
            imported_time *more = bench_allocate(room * sizeof *more);
            if (all.count > 0) {
                memcpy(more, all.times, all.count * sizeof *more);
            }
            free(all.times);
            all.times = more;
        }
        if (!parse(line, &all.times[all.count++])) {
            fail(path, "a line is not NxCxS,direction,threads,contestant,us");
        }
    }
    fclose(file);
    return all;
}

void imported_free(bench_imported *all) {
    free(all->times);
    *all = (bench_imported){0};
}

const imported_time *imported_next(const bench_imported *all, const bench_shape *shape,
                                   bench_direction d, int threads, size_t *at) {
    char name[CASE_NAME];
    case_name(shape, d, name);
    while (*at < all->count) {
        const imported_time *time = &all->times[(*at)++];
        if (time->threads == threads && strcmp(time->name, name) == 0) {
            return time;
        }
    }
    return NULL;
}
