/*
 * The wall clock of one process, moved: loaded before the C library's own by LD_PRELOAD.
 *
 * The file that WALL_CLOCK names holds the offset, in nanoseconds, twice: whoever reads one
 * while it is written sees two that differ, and looks again. It is mapped into the process, so
 * a new offset counts with the next look at the clock.
 *
 * Invariants
 * - Nothing here allocates before the first wait for a condition: allocators ask for the time
 *   while they set themselves up.
 * - Clocks that cannot be set stay as they are: a program waits in the kernel by them.
 */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t SECOND = 1000000000;

/* A wait until a time before this is by a clock that began when the machine did. */
static const time_t SINCE_BOOT = 1000000000;

static const volatile int64_t *offsets;

static const volatile int64_t *map_offsets(void) {
    const char *path = getenv("WALL_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    /* Who asks for another clock and does not get it must not pass for somebody who did. */
    if (file < 0) {
        abort();
    }
    void *mapped = mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) {
        abort();
    }
    close(file);
    return mapped;
}

static int64_t offset(void) {
    const volatile int64_t *known = __atomic_load_n(&offsets, __ATOMIC_ACQUIRE);
    if (!known) {
        /* Two threads may both map it; either mapping will do. */
        known = map_offsets();
        __atomic_store_n(&offsets, known, __ATOMIC_RELEASE);
    }
    int64_t one, other;
    do {
        one = __atomic_load_n(&known[0], __ATOMIC_ACQUIRE);
        other = __atomic_load_n(&known[1], __ATOMIC_ACQUIRE);
    } while (one != other);
    return one;
}

static void move(struct timespec *time, int64_t by) {
    int64_t nanos = time->tv_nsec + by % SECOND;
    time->tv_sec += by / SECOND + (nanos < 0 ? -1 : nanos / SECOND);
    time->tv_nsec = nanos < 0 ? nanos + SECOND : nanos % SECOND;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int answer = (int)syscall(SYS_clock_gettime, clock, time);
    if (answer == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        move(time, offset());
    }
    return answer;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int answer = clock_gettime(CLOCK_REALTIME, &now);
    if (answer == 0) {
        time->tv_sec = now.tv_sec;
        time->tv_usec = now.tv_nsec / 1000;
    }
    return answer;
}

time_t time(time_t *seconds) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) {
        return -1;
    }
    if (seconds) {
        *seconds = now.tv_sec;
    }
    return now.tv_sec;
}

/* The caller reckons by the moved clock, the kernel waits by its own. */
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    typedef int wait(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    static wait *real;
    wait *found = __atomic_load_n(&real, __ATOMIC_ACQUIRE);
    if (!found) {
#ifdef __x86_64__
        /* The name alone finds that of 2002, whose conditions are other ones. */
        found = (wait *)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
#else
        found = (wait *)dlsym(RTLD_NEXT, "pthread_cond_timedwait");
#endif
        __atomic_store_n(&real, found, __ATOMIC_RELEASE);
    }
    struct timespec moved = *until;
    if (moved.tv_sec >= SINCE_BOOT) {
        move(&moved, -offset());
    }
    return found(condition, mutex, &moved);
}
