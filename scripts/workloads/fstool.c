// Small measuring programs for the workloads. Built by `run`.
//   fstool create|stat|read|unlink DIR NFILES NDIRS SIZE   files/s
//   fstool flock FILE SECS                                 flock lock+unlock cycles/s
//   fstool fcntl FILE SECS                                 byte-range lock+unlock cycles/s
//   fstool contend FILE1 FILE2 SECS                        two processes, one flock: handoffs/s acquisitions/s
//   fstool append FILE COUNT TAG                           COUNT appends (O_APPEND) of one 64-byte line
//   fstool stall FILE SECS BYTES                           write+fdatasync loop: longest pause, errors
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
static void die(const char *what) { perror(what); exit(1); }

static int files(const char *op, const char *dir, int n, int nd, size_t size) {
    char path[4096], *buf = malloc(size);
    memset(buf, 'x', size);
    if (!strcmp(op, "create")) {
        if (mkdir(dir, 0755) && errno != EEXIST) die(dir);
        for (int d = 0; d < nd; d++) {
            snprintf(path, sizeof path, "%s/d%02d", dir, d);
            if (mkdir(path, 0755)) die(path);
        }
    }
    double t0 = now();
    for (int i = 0; i < n; i++) {
        struct stat st;
        int fd;
        snprintf(path, sizeof path, "%s/d%02d/f%05d", dir, i % nd, i);
        switch (op[0]) {
        case 'c':
            if ((fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644)) < 0) die(path);
            if (write(fd, buf, size) != (ssize_t)size) die("write");
            if (close(fd)) die("close");
            break;
        case 's':
            if (stat(path, &st)) die(path);
            if ((size_t)st.st_size != size) { fprintf(stderr, "bad size %s\n", path); exit(1); }
            break;
        case 'r':
            if ((fd = open(path, O_RDONLY)) < 0) die(path);
            if (read(fd, buf, size) != (ssize_t)size) { fprintf(stderr, "short read %s\n", path); exit(1); }
            close(fd);
            break;
        case 'u':
            if (unlink(path)) die(path);
            break;
        }
    }
    double t = now() - t0;
    if (op[0] == 'u')
        for (int d = 0; d < nd; d++) {
            snprintf(path, sizeof path, "%s/d%02d", dir, d);
            rmdir(path);
        }
    printf("%.1f\n", n / t);
    return 0;
}

static int lockcycles(const char *path, double secs, int range) {
    int fd = open(path, O_CREAT | O_RDWR, 0644);
    if (fd < 0) die(path);
    long n = 0;
    double t0 = now(), t;
    do {
        if (range) {
            struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (n % 64) * 128, .l_len = 128};
            if (fcntl(fd, F_SETLKW, &l)) die("F_SETLKW");
            l.l_type = F_UNLCK;
            if (fcntl(fd, F_SETLK, &l)) die("F_UNLCK");
        } else {
            if (flock(fd, LOCK_EX)) die("flock");
            if (flock(fd, LOCK_UN)) die("unlock");
        }
        n++;
        t = now() - t0;
    } while (t < secs);
    printf("%.1f\n", n / t);
    return 0;
}

struct shared { atomic_int holder, last, bad; atomic_long handoffs, acquired; };

static int contend(const char *a, const char *b, double secs) {
    struct shared *s = mmap(0, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fd = open(a, O_CREAT | O_RDWR, 0644);
    if (fd < 0) die(a);
    close(fd);
    double t0 = now();
    for (int me = 1; me <= 2; me++)
        if (!fork()) {
            fd = open(me == 1 ? a : b, O_RDWR);
            if (fd < 0) die(b);
            while (now() - t0 < secs) {
                if (flock(fd, LOCK_EX)) die("flock");
                int h = 0;
                if (!atomic_compare_exchange_strong(&s->holder, &h, me)) atomic_fetch_add(&s->bad, 1);
                if (atomic_exchange(&s->last, me) != me) atomic_fetch_add(&s->handoffs, 1);
                atomic_fetch_add(&s->acquired, 1);
                atomic_store(&s->holder, 0);
                if (flock(fd, LOCK_UN)) die("unlock");
            }
            _exit(0);
        }
    while (wait(0) > 0) {}
    double t = now() - t0;
    printf("%.1f %.1f %d\n", s->handoffs / t, s->acquired / t, s->bad);   // third: mutual exclusion broken
    return 0;
}

static int append(const char *path, int count, const char *tag) {
    int fd = open(path, O_CREAT | O_WRONLY | O_APPEND, 0644);
    if (fd < 0) die(path);
    for (int i = 0; i < count; i++) {
        char line[128];
        int n = snprintf(line, sizeof line, "%s %06d ", tag, i);
        memset(line + n, '.', 63 - n);
        line[63] = '\n';
        if (write(fd, line, 64) != 64) die("append");
    }
    if (close(fd)) die("close");
    return 0;
}

// Sequential writes of BYTES; every write that took longer than 0.2 s and every error is reported.
static int stall(const char *path, double secs, size_t bytes) {
    char *buf = malloc(bytes);
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (fd < 0) die(path);
    double t0 = now(), longest = 0, at = 0, end;
    long n = 0, errs = 0;
    do {
        double a = now();
        memset(buf, 'A' + n % 26, bytes);
        errno = 0;
        ssize_t w = write(fd, buf, bytes);
        int e1 = errno, f = w == (ssize_t)bytes ? fdatasync(fd) : 0, e2 = errno;
        end = now();
        if (w != (ssize_t)bytes || f) {
            errs++;
            printf("error at %.2f s: write=%zd (%s) fdatasync=%d (%s)\n", a - t0, w, strerror(e1), f, f ? strerror(e2) : "ok");
            if (errs > 20) break;
            usleep(100000);
        } else n++;
        if (end - a > longest) { longest = end - a; at = a - t0; }
        if (end - a > 0.2) printf("slow write at %.2f s: %.2f s\n", a - t0, end - a);
    } while (end - t0 < secs);
    int c = close(fd);
    printf("writes %ld bytes %ld errors %ld longest %.2f s at %.2f s close=%d\n", n, n * (long)bytes, errs, longest, at, c);
    return 0;
}

int main(int c, char **v) {
    if (c == 6 && strchr("csru", v[1][0])) return files(v[1], v[2], atoi(v[3]), atoi(v[4]), atol(v[5]));
    if (c == 4 && !strcmp(v[1], "flock")) return lockcycles(v[2], atof(v[3]), 0);
    if (c == 4 && !strcmp(v[1], "fcntl")) return lockcycles(v[2], atof(v[3]), 1);
    if (c == 5 && !strcmp(v[1], "contend")) return contend(v[2], v[3], atof(v[4]));
    if (c == 5 && !strcmp(v[1], "append")) return append(v[2], atoi(v[3]), v[4]);
    if (c == 5 && !strcmp(v[1], "stall")) return stall(v[2], atof(v[3]), atol(v[4]));
    fprintf(stderr, "see the head of fstool.c\n");
    return 2;
}
