/* See file.h. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Reading --------------------------------------------------------------------------------- */

bni_file bni_file_none(void) {
    return (bni_file){.fd = -1};
}

static bn_status read_at(int fd, uint64_t at, void *into, size_t bytes) {
    char *to = into;
    while (bytes > 0) {
        const ssize_t got = pread(fd, to, bytes, (off_t)at);
        if (got == 0 || (got < 0 && errno != EINTR)) {
            return BN_STATUS_IO; /* an end that was not there before is one too */
        }
        if (got > 0) {
            to += got;
            at += (uint64_t)got;
            bytes -= (size_t)got;
        }
    }
    return BN_STATUS_OK;
}

static bn_status read_header(bni_file *file, uint64_t file_bytes) {
    unsigned char length_bytes[BNI_LENGTH_BYTES];
    if (file_bytes < BNI_LENGTH_BYTES) {
        return BN_STATUS_BAD_FORMAT;
    }
    bn_status status = read_at(file->fd, 0, length_bytes, sizeof length_bytes);
    if (status != BN_STATUS_OK) {
        return status;
    }
    const uint64_t length = bni_le_read(length_bytes, sizeof length_bytes);
    if (length > BNI_MOST_HEADER || length > file_bytes - BNI_LENGTH_BYTES) {
        return BN_STATUS_BAD_FORMAT;
    }
    file->data_at = BNI_LENGTH_BYTES + length;
    file->header.text = malloc((size_t)length + 1);
    if (file->header.text == NULL) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    status = read_at(file->fd, BNI_LENGTH_BYTES, file->header.text, (size_t)length);
    return status != BN_STATUS_OK
               ? status
               : bni_header_parse(&file->header, (size_t)length, file_bytes - file->data_at);
}

/* Without waiting, as opening a pipe that nobody writes to would. */
bn_status bni_file_open(bni_file *file, const char *path) {
    struct stat about;
    *file = bni_file_none();
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file->fd < 0 || fstat(file->fd, &about) != 0 || !S_ISREG(about.st_mode)) {
        return BN_STATUS_IO;
    }
    file->mode = about.st_mode & (S_IRWXU | S_IRWXG | S_IRWXO);
    return read_header(file, (uint64_t)about.st_size);
}

void bni_file_close(bni_file *file) {
    if (file->fd >= 0) {
        close(file->fd);
    }
    bni_header_free(&file->header);
}

bn_status bni_file_read(const bni_file *file, uint64_t at, void *into, size_t bytes) {
    return read_at(file->fd, file->data_at + at, into, bytes);
}

/* ---- Paths ----------------------------------------------------------------------------------- */

bn_status bni_path_resolve(const char *path, char **target) {
    struct stat about;
    *target = realpath(path, NULL);
    if (*target != NULL) {
        return BN_STATUS_OK;
    }
    if (errno == ENOMEM) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    /* A link that leads nowhere is there all the same. */
    return errno == ENOENT && lstat(path, &about) != 0 && errno == ENOENT ? BN_STATUS_OK
                                                                          : BN_STATUS_IO;
}

/* With its last slash, or nothing. */
static size_t directory_length(const char *path) {
    const char *const slash = strrchr(path, '/');
    return slash == NULL ? 0 : (size_t)(slash - path) + 1;
}

/* ---- Writing --------------------------------------------------------------------------------- */

enum { DRAFT_NAME_ROOM = 64, DRAFTS = 10000 };

/* What a crash left behind, and what others are at, have their names. */
static int make_draft(bni_draft *draft, size_t directory, mode_t mode) {
    char *const name = draft->path + directory;
    int fd = -1;
    for (unsigned k = 0; fd < 0 && k < DRAFTS; k++) {
        snprintf(name, DRAFT_NAME_ROOM, ".batchnorm-%ld-%u.tmp", (long)getpid(), k);
        fd = open(draft->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (fd < 0 && errno != EEXIST) {
            break;
        }
    }
    return fd;
}

bn_status bni_draft_begin(bni_draft *draft, const char *target, const mode_t *mode) {
    const size_t directory = directory_length(target);
    *draft = (bni_draft){.target = target, .fd = -1, .directory = -1};
    draft->path = malloc(directory + DRAFT_NAME_ROOM);
    if (draft->path == NULL) {
        return BN_STATUS_OUT_OF_MEMORY;
    }
    memcpy(draft->path, directory == 0 ? "." : target, directory == 0 ? 1 : directory);
    draft->path[directory == 0 ? 1 : directory] = '\0';
    draft->directory = open(draft->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (draft->directory < 0) {
        return BN_STATUS_IO;
    }
    draft->fd = make_draft(draft, directory, mode == NULL ? 0666 : *mode);
    return draft->fd < 0 || (mode != NULL && fchmod(draft->fd, *mode) != 0) ? BN_STATUS_IO
                                                                            : BN_STATUS_OK;
}

bn_status bni_draft_write(bni_draft *draft, const void *from, size_t bytes) {
    const char *at = from;
    while (bytes > 0) {
        const ssize_t put = write(draft->fd, at, bytes);
        if (put == 0 || (put < 0 && errno != EINTR)) {
            return BN_STATUS_IO;
        }
        if (put > 0) {
            at += put;
            bytes -= (size_t)put;
        }
    }
    return BN_STATUS_OK;
}

/* Some file systems do not sync directories, and say that this makes no sense. */
static bool sync_directory(int directory) {
    return fsync(directory) == 0 || errno == EINVAL;
}

static bn_status put_in_place(bni_draft *draft) {
    const bool synced = fsync(draft->fd) == 0;
    const bool closed = close(draft->fd) == 0;
    if (!synced || !closed || rename(draft->path, draft->target) != 0) {
        unlink(draft->path);
        return BN_STATUS_IO;
    }
    return sync_directory(draft->directory) ? BN_STATUS_OK : BN_STATUS_IO;
}

bn_status bni_draft_end(bni_draft *draft, bn_status status) {
    if (status == BN_STATUS_OK) {
        status = put_in_place(draft);
    } else if (draft->fd >= 0) {
        close(draft->fd);
        unlink(draft->path);
    }
    if (draft->directory >= 0) {
        close(draft->directory);
    }
    free(draft->path);
    return status;
}
