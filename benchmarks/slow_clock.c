/* Makes time pass SLOWER times as slowly for a process that loads this before the C library, as
 * instructions do under valgrind: the monotonic clock, and how long is waited. So does the date, from
 * when it is first asked for: how often it changes, and has to be formatted, while connections are
 * opened would depend on what else the machine does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <time.h>

#define SLOWER 50
#define SECOND 1000000000LL
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Times of other clocks are seconds since 1970. */
static int is_monotonic(clockid_t id) {
    return id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_COARSE || id == CLOCK_MONOTONIC_RAW || id == CLOCK_BOOTTIME;
}

static int is_date(clockid_t id) {
    return id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE;
}

static struct timespec times(const struct timespec *time, long long by, long long divisor) {
    long long ns = (time->tv_sec * SECOND + time->tv_nsec) / divisor * by;
    struct timespec result = {ns / SECOND, ns % SECOND};
    return result;
}

static int longer(int milliseconds) {
    if (milliseconds <= 0) return milliseconds;
    return milliseconds > INT_MAX / SLOWER ? INT_MAX : milliseconds * SLOWER;
}

int clock_gettime(clockid_t id, struct timespec *time) {
    static __typeof__(&clock_gettime) next;
    if (!next) next = NEXT(clock_gettime);
    int result = next(id, time);
    if (!result && is_monotonic(id)) *time = times(time, 1, SLOWER);
    if (!result && is_date(id)) {
        static time_t begin;
        if (!begin) begin = time->tv_sec;
        struct timespec passed = {time->tv_sec - begin, time->tv_nsec};
        *time = times(&passed, 1, SLOWER);
        time->tv_sec += begin;
    }
    return result;
}

time_t time(time_t *result) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME_COARSE, &now)) return (time_t)-1;
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

int clock_nanosleep(clockid_t id, int flags, const struct timespec *time, struct timespec *left) {
    struct timespec real = is_monotonic(id) || !(flags & TIMER_ABSTIME) ? times(time, SLOWER, 1) : *time;
    return NEXT(clock_nanosleep)(id, flags, &real, left);
}

int poll(struct pollfd *fds, nfds_t count, int milliseconds) {
    static __typeof__(&poll) next;
    if (!next) next = NEXT(poll);
    return next(fds, count, longer(milliseconds));
}

int epoll_wait(int fd, struct epoll_event *events, int count, int milliseconds) {
    static __typeof__(&epoll_wait) next;
    if (!next) next = NEXT(epoll_wait);
    return next(fd, events, count, longer(milliseconds));
}

int epoll_pwait(int fd, struct epoll_event *events, int count, int milliseconds, const sigset_t *mask) {
    static __typeof__(&epoll_pwait) next;
    if (!next) next = NEXT(epoll_pwait);
    return next(fd, events, count, longer(milliseconds), mask);
}

int sem_clockwait(sem_t *semaphore, clockid_t id, const struct timespec *until) {
    static __typeof__(&sem_clockwait) next;
    if (!next) next = NEXT(sem_clockwait);
    struct timespec real = is_monotonic(id) ? times(until, SLOWER, 1) : *until;
    return next(semaphore, id, &real);
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    static __typeof__(&pthread_cond_timedwait) next;
    if (!next) {
        next = (__typeof__(next))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
        if (!next) next = NEXT(pthread_cond_timedwait);
    }
    /* Which clock it is isn't known here; only the one since 1970 has such a time. */
    struct timespec real = until->tv_sec < 100000000 ? times(until, SLOWER, 1) : *until;
    return next(condition, mutex, &real);
}
