/*
 * Files: one that is read, and one that is written beside its place and put there once it is whole.
 */
#ifndef BN_SAFETENSORS_FILE_H
#define BN_SAFETENSORS_FILE_H

#include "header.h"

#include <sys/stat.h>
#include <sys/types.h>

enum { BNI_LENGTH_BYTES = 8, BNI_BLOCK_BYTES = 65536 };

/* A file that was read up to its data. */
typedef struct bni_file {
    int fd;
    mode_t mode;
    uint64_t data_at;
    bni_header header;
} bni_file;

/* No file; closing it does nothing. */
bni_file bni_file_none(void);

/* *file is to be closed, whatever is returned. */
bn_status bni_file_open(bni_file *file, const char *path);
void bni_file_close(bni_file *file);

/* So many bytes from there in the data. */
bn_status bni_file_read(const bni_file *file, uint64_t at, void *into, size_t bytes);

/* Where a path leads, through all links, for free(); NULL in *target: to a place where nothing is. */
bn_status bni_path_resolve(const char *path, char **target);

/* A file that is not in its place yet. */
typedef struct bni_draft {
    char *path; /* where it is now */
    const char *target;
    int fd, directory;
} bni_draft;

/* Makes an empty file beside target, with these permission bits, or if mode is NULL those of any new file.
 * What is begun must be ended. */
bn_status bni_draft_begin(bni_draft *draft, const char *target, const mode_t *mode);
bn_status bni_draft_write(bni_draft *draft, const void *from, size_t bytes);

/* Puts it in its place, and returns once it is there for good. Given another status than
 * BN_STATUS_OK removes it and returns that. */
bn_status bni_draft_end(bni_draft *draft, bn_status status);

#endif /* BN_SAFETENSORS_FILE_H */
