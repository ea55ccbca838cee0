/* Draws a token for each of some rows of logits, with llama.cpp's samplers.
 *
 * A top-k chain needs only the k likeliest tokens, but llama.cpp would make and sort a list of the whole
 * vocabulary for each sequence. Here a row is cut into blocks. The k-th largest of their maxima is a bound: at least k
 * tokens reach it, and only blocks whose maximum does can hold one. So a row is read once, and little more than k
 * tokens are left of it.
 *
 * A pool of threads, here called a crew, shares the rows of a step: an idle thread takes the next row. Knows nothing of
 * Python and sequences.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define BLOCK 64
#define LANES 8 /* numbers compared side by side, in a processor's wide registers */

struct candidate { /* llama_token_data */
    int32_t id;
    float logit;
    float p;
};

struct candidates { /* llama_token_data_array */
    struct candidate *data;
    size_t size;
    int64_t selected;
    bool sorted;
};

struct samplers { /* llama.cpp's functions */
    void (*apply)(void *chain, struct candidates *candidates);
    void (*accept)(void *chain, int32_t token_id);
};

struct request { /* of one sequence; only `row` and `drawn` change with each step */
    void *chain;
    int64_t num;         /* how many of the likeliest tokens the chain needs */
    const int64_t *also; /* further tokens it needs, likely or not, each once */
    int64_t num_also;
    int64_t row;   /* of the logits */
    int64_t drawn; /* the answer; -1 where the chain chose none */
};

struct step { /* what is drawn at once */
    struct request *const *requests;
    size_t num_requests;
    const float *logits;
    const struct samplers *samplers;
};

struct scratch { /* of one thread */
    float *maxima;                /* of each block */
    float *heap;                  /* of the largest maxima, the smallest of them first */
    struct candidate *candidates; /* room for the whole vocabulary */
};

static float larger(float a, float b) { return b > a ? b : a; } /* a, where b is not a number */

static float whole_block_max(const float *block) {
    float lanes[LANES];
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = larger(-INFINITY, block[lane]);
    for (int start = LANES; start < BLOCK; start += LANES)
        for (int lane = 0; lane < LANES; lane++) lanes[lane] = larger(lanes[lane], block[start + lane]);
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++) lanes[lane] = larger(lanes[lane], lanes[lane + width]);
    return lanes[0];
}

static float block_max(const float *block, size_t size) {
    if (size == BLOCK) return whole_block_max(block);
    float most = -INFINITY;
    for (size_t i = 0; i < size; i++) most = larger(most, block[i]);
    return most;
}

static size_t block_size(size_t start, size_t num_tokens) {
    return start + BLOCK <= num_tokens ? BLOCK : num_tokens - start;
}

static void replace_smallest(float *heap, size_t size, float number) {
    size_t place = 0;
    for (size_t child = 1; child < size; child = 2 * place + 1) {
        if (child + 1 < size && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= number) break;
        heap[place] = heap[child];
        place = child;
    }
    heap[place] = number;
}

/* -INFINITY if there are not so many. */
static float nth_largest(const float *numbers, size_t count, size_t n, float *heap) {
    if (n > count) return -INFINITY;
    for (size_t i = 0; i < n; i++) heap[i] = -INFINITY;
    for (size_t i = 0; i < count; i++)
        if (numbers[i] > heap[0]) replace_smallest(heap, n, numbers[i]);
    return heap[0];
}

static struct candidate token(const float *row, size_t id) {
    return (struct candidate){.id = (int32_t)id, .logit = row[id], .p = 0};
}

/* The tokens a request needs, but for forbidden ones, whose logit is -INFINITY. Returns how many. */
static size_t find(const struct request *request, const float *row, size_t num_tokens, const struct scratch *scratch) {
    size_t num_blocks = 0, size = 0;
    for (size_t start = 0; start < num_tokens; start += BLOCK)
        scratch->maxima[num_blocks++] = block_max(row + start, block_size(start, num_tokens));
    const float bound = nth_largest(scratch->maxima, num_blocks, (size_t)request->num, scratch->heap);
    for (size_t block = 0; block < num_blocks; block++) {
        if (!(scratch->maxima[block] >= bound)) continue;
        const size_t start = block * BLOCK, end = start + block_size(start, num_tokens);
        for (size_t id = start; id < end; id++)
            if (row[id] >= bound && row[id] > -INFINITY) scratch->candidates[size++] = token(row, id);
    }
    for (int64_t i = 0; i < request->num_also; i++) {
        const size_t id = (size_t)request->also[i];
        if (row[id] < bound && row[id] > -INFINITY) scratch->candidates[size++] = token(row, id);
    }
    return size;
}

static size_t take_all(const float *row, size_t num_tokens, struct candidate *candidates) {
    for (size_t id = 0; id < num_tokens; id++) candidates[id] = token(row, id);
    return num_tokens;
}

/* What is to come of a row without any number is llama.cpp's to decide. */
static int32_t draw_one(const struct request *request, const float *row, size_t num_tokens,
                        const struct samplers *samplers, const struct scratch *scratch) {
    size_t size = find(request, row, num_tokens, scratch);
    if (!size) size = take_all(row, num_tokens, scratch->candidates);
    struct candidates candidates = {.data = scratch->candidates, .size = size, .selected = -1, .sorted = false};
    samplers->apply(request->chain, &candidates);
    if (candidates.selected < 0 || candidates.selected >= (int64_t)candidates.size) return -1;
    const int32_t drawn = candidates.data[candidates.selected].id;
    samplers->accept(request->chain, drawn);
    return drawn;
}

static struct scratch make_scratch(size_t num_tokens) {
    const size_t num_blocks = (num_tokens + BLOCK - 1) / BLOCK;
    return (struct scratch){
        .maxima = malloc(num_blocks * sizeof(float)),
        .heap = malloc(num_blocks * sizeof(float)),
        .candidates = malloc(num_tokens * sizeof(struct candidate)),
    };
}

static bool has_room(const struct scratch *scratch) { return scratch->maxima && scratch->heap && scratch->candidates; }

static void free_scratch(struct scratch *scratch) {
    free(scratch->maxima);
    free(scratch->heap);
    free(scratch->candidates);
}

struct crew {
    size_t num_tokens; /* of a row of logits */
    size_t num_helpers;
    pthread_t *helpers;
    struct scratch scratch; /* of the thread that calls */
    struct step step;
    atomic_size_t next; /* first request that no thread has taken */

    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t begun, done;
    size_t num_steps;   /* begun so far */
    bool is_open;       /* helpers may join the step */
    size_t num_working; /* helpers that have */
    bool is_stopping;
};

static void take_requests(struct crew *crew, const struct scratch *scratch) {
    const struct step *step = &crew->step;
    size_t taken;
    while ((taken = atomic_fetch_add(&crew->next, 1)) < step->num_requests) {
        struct request *request = step->requests[taken];
        const float *row = step->logits + (size_t)request->row * crew->num_tokens;
        request->drawn = draw_one(request, row, crew->num_tokens, step->samplers, scratch);
    }
}

/* Waits for a step that is not the one before. False when the crew stops. */
static bool join(struct crew *crew, size_t *num_steps) {
    while (!crew->is_stopping && (!crew->is_open || crew->num_steps == *num_steps))
        pthread_cond_wait(&crew->begun, &crew->lock);
    *num_steps = crew->num_steps;
    crew->num_working += !crew->is_stopping;
    return !crew->is_stopping;
}

static void leave(struct crew *crew) {
    if (--crew->num_working == 0) pthread_cond_signal(&crew->done);
}

static void *help(void *argument) {
    struct crew *crew = argument;
    struct scratch scratch = make_scratch(crew->num_tokens);
    size_t num_steps = 0;
    pthread_mutex_lock(&crew->lock);
    while (has_room(&scratch) && join(crew, &num_steps)) {
        pthread_mutex_unlock(&crew->lock);
        take_requests(crew, &scratch);
        pthread_mutex_lock(&crew->lock);
        leave(crew);
    }
    pthread_mutex_unlock(&crew->lock);
    free_scratch(&scratch);
    return NULL;
}

/* NULL where there is no memory for it. As many helpers as can be had: without any, the caller does all. */
struct crew *crew_start(size_t num_tokens, size_t num_helpers) {
    struct crew *crew = calloc(1, sizeof(struct crew));
    if (!crew) return NULL;
    crew->num_tokens = num_tokens;
    crew->scratch = make_scratch(num_tokens);
    crew->helpers = calloc(num_helpers + 1, sizeof(pthread_t));
    if (!has_room(&crew->scratch) || !crew->helpers) {
        free_scratch(&crew->scratch);
        free(crew->helpers);
        free(crew);
        return NULL;
    }
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->begun, NULL);
    pthread_cond_init(&crew->done, NULL);
    while (crew->num_helpers < num_helpers && !pthread_create(&crew->helpers[crew->num_helpers], NULL, help, crew))
        crew->num_helpers++;
    return crew;
}

static void begin(struct crew *crew, size_t num_wanted) {
    pthread_mutex_lock(&crew->lock);
    atomic_store(&crew->next, 0);
    crew->num_steps++;
    crew->is_open = true;
    for (size_t i = 0; i < num_wanted && i < crew->num_helpers; i++) pthread_cond_signal(&crew->begun);
    pthread_mutex_unlock(&crew->lock);
}

/* No thread may join any more: the requests are the caller's again. */
static void end(struct crew *crew) {
    pthread_mutex_lock(&crew->lock);
    crew->is_open = false;
    while (crew->num_working) pthread_cond_wait(&crew->done, &crew->lock);
    pthread_mutex_unlock(&crew->lock);
}

/* Fills in what is drawn. One step at a time. */
void crew_draw(struct crew *crew, struct request *const *requests, size_t num_requests, const float *logits,
               const struct samplers *samplers) {
    crew->step = (struct step){requests, num_requests, logits, samplers};
    begin(crew, num_requests - 1);
    take_requests(crew, &crew->scratch);
    end(crew);
}

void crew_stop(struct crew *crew) {
    pthread_mutex_lock(&crew->lock);
    crew->is_stopping = true;
    pthread_cond_broadcast(&crew->begun);
    pthread_mutex_unlock(&crew->lock);
    for (size_t i = 0; i < crew->num_helpers; i++) pthread_join(crew->helpers[i], NULL);
    pthread_cond_destroy(&crew->begun);
    pthread_cond_destroy(&crew->done);
    pthread_mutex_destroy(&crew->lock);
    free_scratch(&crew->scratch);
    free(crew->helpers);
    free(crew);
}
