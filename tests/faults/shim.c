/* What a file system may do to a command, on request: an LD_PRELOAD library that counts the calls below one folder and
 * kills the process, or lets the call fail, at the n-th. The request stands in a file that every process of the command
 * maps (FAULTS_CONTROL), so that calls are counted over all of them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, KILL = 1, TEAR = 2, FAIL = 3, FAIL_ON = 4, FAIL_READS = 5 };

/* processes.py packs this. */
struct control {
    volatile long count, at, action, error;
    char prefix[1024];
    char said[1024];
};

static struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("FAULTS_CONTROL");
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    int file = name ? real(name, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *place = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (place != MAP_FAILED) control = place;
}

static int below(const char *path) {
    size_t length = strlen(control->prefix);
    return length && !strncmp(path, control->prefix, length);
}

static int place_of(int folder, const char *path, char *whole) {
    char link[64];
    ssize_t length;
    if (path && path[0] == '/') return snprintf(whole, PATH_MAX, "%s", path) > 0;
    if (folder == AT_FDCWD) {
        if (!getcwd(whole, PATH_MAX)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        if ((length = readlink(link, whole, PATH_MAX - 1)) < 0) return 0;
        whole[length] = 0;
    }
    if (path) {
        length = strlen(whole);
        snprintf(whole + length, PATH_MAX - length, "/%s", path);
    }
    return 1;
}

/* 0: go on; else the errno that the call shall fail with; -1: write half of it, then die. */
static int fault(const char *name, int folder, const char *path, int reads) {
    char whole[PATH_MAX];
    int before = errno;
    if (!control || !control->prefix[0] || reads != (control->action == FAIL_READS)) return 0;
    if (!place_of(folder, path, whole) || !below(whole)) { errno = before; return 0; }
    errno = before;
    long now = __sync_add_and_fetch(&control->count, 1);
    if (!control->at || now < control->at) return 0;
    if (now == control->at) snprintf(control->said, sizeof control->said, "%s %s", name, whole + strlen(control->prefix));
    /* A disk that is full still lets go of what is removed, renamed and flushed. */
    int needs_room = strstr("open write mkdir ftruncate symlink link copy", name) != NULL;
    switch (control->action) {
        case KILL: if (now == control->at) kill(getpid(), SIGKILL); return 0;
        case TEAR: if (now == control->at) { if (!strcmp(name, "write")) return -1; kill(getpid(), SIGKILL); } return 0;
        case FAIL: return now == control->at ? (int)control->error : 0;
        case FAIL_READS: return now == control->at ? (int)control->error : 0;
        case FAIL_ON: return needs_room ? (int)control->error : 0;
    }
    return 0;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define REFUSED(what, folder, path, reads, otherwise) \
    int wrong = fault(what, folder, path, reads); \
    if (wrong > 0) { errno = wrong; return otherwise; }

static int changes(int flags) { return (flags & (O_CREAT | O_TRUNC | O_APPEND)) || (flags & O_ACCMODE) != O_RDONLY; }

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); }
int open(const char *path, int flags, ...) { MODE REAL(open); REFUSED("open", AT_FDCWD, path, !changes(flags), -1); return real(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE REAL(open64); REFUSED("open", AT_FDCWD, path, !changes(flags), -1); return real(path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE REAL(openat); REFUSED("open", folder, path, !changes(flags), -1); return real(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE REAL(openat64); REFUSED("open", folder, path, !changes(flags), -1); return real(folder, path, flags, mode); }
int creat(const char *path, mode_t mode) { REAL(creat); REFUSED("open", AT_FDCWD, path, 0, -1); return real(path, mode); }
FILE *fopen(const char *path, const char *mode) { REAL(fopen); REFUSED("open", AT_FDCWD, path, !strpbrk(mode, "wa+"), NULL); return real(path, mode); }
FILE *fopen64(const char *path, const char *mode) { REAL(fopen64); REFUSED("open", AT_FDCWD, path, !strpbrk(mode, "wa+"), NULL); return real(path, mode); }

#define TORN(half) if (wrong < 0) { half; kill(getpid(), SIGKILL); }
ssize_t write(int file, const void *bytes, size_t size) { REAL(write); REFUSED("write", file, NULL, 0, -1); TORN(real(file, bytes, size / 2)); return real(file, bytes, size); }
ssize_t pwrite(int file, const void *bytes, size_t size, off_t at) { REAL(pwrite); REFUSED("write", file, NULL, 0, -1); TORN(real(file, bytes, size / 2, at)); return real(file, bytes, size, at); }
ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at) { REAL(pwrite64); REFUSED("write", file, NULL, 0, -1); TORN(real(file, bytes, size / 2, at)); return real(file, bytes, size, at); }
ssize_t writev(int file, const struct iovec *parts, int count) { REAL(writev); REFUSED("write", file, NULL, 0, -1); TORN(real(file, parts, count / 2)); return real(file, parts, count); }
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t size, unsigned flags) { REAL(copy_file_range); REFUSED("copy", to, NULL, 0, -1); return real(from, a, to, b, size, flags); }
ssize_t sendfile(int to, int from, off_t *at, size_t size) { static ssize_t (*real)(int, int, off_t *, size_t); if (!real) real = dlsym(RTLD_NEXT, "sendfile"); REFUSED("copy", to, NULL, 0, -1); return real(to, from, at, size); }
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { static ssize_t (*real)(int, int, off64_t *, size_t); if (!real) real = dlsym(RTLD_NEXT, "sendfile64"); REFUSED("copy", to, NULL, 0, -1); return real(to, from, at, size); }

ssize_t read(int file, void *bytes, size_t size) { REAL(read); REFUSED("read", file, NULL, 1, -1); return real(file, bytes, size); }
ssize_t pread(int file, void *bytes, size_t size, off_t at) { REAL(pread); REFUSED("read", file, NULL, 1, -1); return real(file, bytes, size, at); }
ssize_t pread64(int file, void *bytes, size_t size, off64_t at) { REAL(pread64); REFUSED("read", file, NULL, 1, -1); return real(file, bytes, size, at); }

/* A file system without locks, as Lustre mounted without `-o flock`: FAULTS_FLOCK is the errno. */
int flock(int file, int operation) { const char *wrong = getenv("FAULTS_FLOCK"); if (wrong) { errno = atoi(wrong); return -1; } REAL(flock); return real(file, operation); }
int ftruncate(int file, off_t size) { REAL(ftruncate); REFUSED("ftruncate", file, NULL, 0, -1); return real(file, size); }
int ftruncate64(int file, off64_t size) { REAL(ftruncate64); REFUSED("ftruncate", file, NULL, 0, -1); return real(file, size); }
int fsync(int file) { REAL(fsync); REFUSED("fsync", file, NULL, 0, -1); return real(file); }
int fdatasync(int file) { REAL(fdatasync); REFUSED("fsync", file, NULL, 0, -1); return real(file); }
int rename(const char *from, const char *to) { REAL(rename); REFUSED("rename", AT_FDCWD, from, 0, -1); return real(from, to); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); REFUSED("rename", a, from, 0, -1); return real(a, from, b, to); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { static int (*real)(int, const char *, int, const char *, unsigned); if (!real) real = dlsym(RTLD_NEXT, "renameat2"); REFUSED("rename", a, from, 0, -1); return real(a, from, b, to, flags); }
int link(const char *from, const char *to) { REAL(link); REFUSED("link", AT_FDCWD, to, 0, -1); return real(from, to); }
int symlink(const char *from, const char *to) { REAL(symlink); REFUSED("symlink", AT_FDCWD, to, 0, -1); return real(from, to); }
int unlink(const char *path) { REAL(unlink); REFUSED("unlink", AT_FDCWD, path, 0, -1); return real(path); }
int unlinkat(int folder, const char *path, int flags) { REAL(unlinkat); REFUSED("unlink", folder, path, 0, -1); return real(folder, path, flags); }
int rmdir(const char *path) { REAL(rmdir); REFUSED("rmdir", AT_FDCWD, path, 0, -1); return real(path); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); REFUSED("mkdir", AT_FDCWD, path, 0, -1); return real(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { REAL(mkdirat); REFUSED("mkdir", folder, path, 0, -1); return real(folder, path, mode); }
