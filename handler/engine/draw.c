/* Draws a token for each of some rows of logits, with llama.cpp's samplers.
 *
 * A chain that keeps the k likeliest tokens needs no others, but llama.cpp would make and sort a list of the whole
 * vocabulary for each sequence. Here a row is cut into blocks. The k-th largest of their maxima is a bound: at least k
 * tokens reach it, and only blocks whose maximum does can hold one. So a row is read once, and little more than k
 * tokens are left of it.
 *
 * Runs in the calling thread; sampling.py splits a step's rows over several. Knows nothing of Python and sequences.
 */
#include <math.h>
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

struct scratch {
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

/* Fills in what is drawn. Returns 0, or 1 where there is no memory for it. */
int draw(struct request *const *requests, size_t num_requests, const float *logits, size_t num_tokens,
         const struct samplers *samplers) {
    const size_t num_blocks = (num_tokens + BLOCK - 1) / BLOCK;
    struct scratch scratch = {
        .maxima = malloc(num_blocks * sizeof(float)),
        .heap = malloc(num_blocks * sizeof(float)),
        .candidates = malloc(num_tokens * sizeof(struct candidate)),
    };
    const bool has_room = scratch.maxima && scratch.heap && scratch.candidates;
    for (size_t i = 0; has_room && i < num_requests; i++) {
        const float *row = logits + (size_t)requests[i]->row * num_tokens;
        requests[i]->drawn = draw_one(requests[i], row, num_tokens, samplers, &scratch);
    }
    free(scratch.maxima);
    free(scratch.heap);
    free(scratch.candidates);
    return !has_room;
}
