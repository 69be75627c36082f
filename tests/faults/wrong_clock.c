/* A wrong clock for real processes, put in front of the C library with LD_PRELOAD.
 *
 * FLO_WRONG_CLOCK names a file of three doubles, mapped once: how many seconds the clock is ahead,
 * how many more with each second, and since when (seconds since 1970). Clocks that only count
 * (monotonic ones) stay right, as they do on a machine whose clock is wrong.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile double *wrong;
static int (*true_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("FLO_WRONG_CLOCK");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    void *place = file < 0 ? MAP_FAILED : mmap(NULL, 24, PROT_READ, MAP_SHARED, file, 0);
    true_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (place == MAP_FAILED || !true_clock)
        abort(); /* no process of the bench runs with a clock that is right by mistake */
    close(file);
    wrong = place;
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    int failed = true_clock ? true_clock(id, now) : (int)syscall(SYS_clock_gettime, id, now);
    if (failed || !wrong || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE))
        return failed;
    double truly = (double)now->tv_sec + 1e-9 * (double)now->tv_nsec;
    double ahead = wrong[0] + wrong[1] * (truly - wrong[2]), whole = floor(ahead);
    long nanoseconds = now->tv_nsec + (long)(1e9 * (ahead - whole));
    now->tv_sec += (time_t)whole + nanoseconds / 1000000000;
    now->tv_nsec = nanoseconds % 1000000000;
    return 0;
}

time_t time(time_t *place)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place)
        *place = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict place, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    place->tv_sec = now.tv_sec;
    place->tv_usec = now.tv_nsec / 1000;
    return 0;
}
