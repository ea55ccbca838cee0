/* llama.cpp's callbacks while it loads a model: some thousand lines of a log that few read, and a share for each tensor.
 *
 * A callback in Python waits each time for the GIL, which other threads hold that import the rest of the worker. So what
 * nothing listens to ends here. Knows nothing of Python.
 */
#include <stdatomic.h>
#include <stdbool.h>

#define CONTINUATION 5 /* a log level: of the same line as the piece before */
#define STEP 0.01f     /* of the whole */

typedef void (*log_function)(int level, const char *text, void *data);
typedef bool (*progress_function)(float share, void *data);

struct progress { /* of one load */
    progress_function target;
    float told;
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

/* `data` is a struct progress. */
bool progress_in_steps(float share, void *data) {
    struct progress *progress = data;
    if (share < 1.0f && share - progress->told < STEP) return true;
    progress->told = share;
    return progress->target(share, 0);
}
