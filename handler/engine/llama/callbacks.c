/* llama.cpp's callbacks while it loads a model: some thousand lines of a log that few read, and a share for each tensor.
 *
 * A callback in Python waits each time for the GIL, which other threads hold that import the rest of the worker. So what
 * nothing listens to ends here. Knows nothing of Python.
 */
#define _POSIX_C_SOURCE 199309L
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#define CONTINUATION 5 /* a log level: of the same line as the piece before */

typedef void (*log_function)(int level, const char *text, void *data);
typedef bool (*progress_function)(float share, void *data);

struct progress { /* of one load */
    progress_function target;
    double pause; /* seconds */
    double told;  /* when, by the monotonic clock */
};

static _Atomic(log_function) log_target;
static atomic_int log_least;
static _Thread_local int log_level;

void log_pass_on(log_function target, int least_level) {
    atomic_store(&log_least, least_level);
    atomic_store(&log_target, target);
}

void log_filtered(int level, const char *text, void *data) {
    if (level != CONTINUATION) log_level = level;
    log_function target = atomic_load(&log_target);
    if (target && log_level >= atomic_load(&log_least)) target(level, text, data);
}

/* `data` is a struct progress: its target is told at once, after pauses, and of the end. */
bool progress_with_pauses(float share, void *data) {
    struct progress *progress = data;
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    double now = (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
    if (share < 1.0f && now - progress->told < progress->pause) return true;
    progress->told = now;
    return progress->target(share, 0);
}
