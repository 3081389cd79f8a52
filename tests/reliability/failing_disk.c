// A disk that fails: preloaded, it lets the n-th call that would change a file under a folder fail, and all after it.
// Removing works on, as it does on a full disk. Every call of every library in the process goes through it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static long fails_at = -1, done = 0;
static int reason = 0;

// Fail from call number `n` on (counted from 1; 0: never, only count) with this errno.
void disk_fails(const char *below, long n, int error) {
    snprintf(folder, sizeof folder, "%s", below);
    fails_at = n;
    reason = error;
    done = 0;
}

long disk_calls(void) { return done; }

static int failing(void) {
    long now = __sync_add_and_fetch(&done, 1);
    if (fails_at <= 0 || now < fails_at) return 0;
    errno = reason;
    return 1;
}

static int concerns(int at, const char *path) {
    char real[8192];
    if (fails_at < 0 || !path) return 0;
    if (path[0] != '/') {
        char link[64];
        ssize_t size;
        snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
        size = readlink(link, real, 4000);
        if (size < 0) return 0;
        snprintf(real + size, sizeof real - size, "/%s", path);
        path = real;
    }
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int concerns_fd(int fd) {
    char link[64], real[4096];
    if (fails_at < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, real, sizeof real - 1);
    if (size < 0) return 0;
    real[size] = 0;
    return strncmp(real, folder, strlen(folder)) == 0;
}

#define NEXT(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define OPEN(name)                                                                    \
    int name(const char *path, int flags, ...) {                                      \
        NEXT(name);                                                                   \
        va_list rest;                                                                 \
        va_start(rest, flags);                                                        \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;       \
        va_end(rest);                                                                 \
        if ((flags & O_CREAT) && concerns(AT_FDCWD, path) && failing()) return -1;    \
        return real(path, flags, mode);                                               \
    }
#define OPENAT(name)                                                                  \
    int name(int at, const char *path, int flags, ...) {                              \
        NEXT(name);                                                                   \
        va_list rest;                                                                 \
        va_start(rest, flags);                                                        \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;       \
        va_end(rest);                                                                 \
        if ((flags & O_CREAT) && concerns(at, path) && failing()) return -1;          \
        return real(at, path, flags, mode);                                           \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define ON_FD(result, name, declared, passed)                                         \
    result name declared {                                                            \
        NEXT(name);                                                                   \
        if (concerns_fd(fd) && failing()) return -1;                                  \
        return real passed;                                                           \
    }
ON_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, writev, (int fd, const struct iovec *parts, int num), (fd, parts, num))
ON_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(int, fsync, (int fd), (fd))
ON_FD(int, fdatasync, (int fd), (fd))
ON_FD(int, ftruncate, (int fd, off_t size), (fd, size))
ON_FD(int, ftruncate64, (int fd, off64_t size), (fd, size))

int rename(const char *from, const char *to) {
    NEXT(rename);
    if (concerns(AT_FDCWD, to) && failing()) return -1;
    return real(from, to);
}

int mkdir(const char *path, mode_t mode) {
    NEXT(mkdir);
    if (concerns(AT_FDCWD, path) && failing()) return -1;
    return real(path, mode);
}

int link(const char *from, const char *to) {
    NEXT(link);
    if (concerns(AT_FDCWD, to) && failing()) return -1;
    return real(from, to);
}
