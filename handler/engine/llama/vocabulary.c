/* Looks for tokens in a vocabulary of hundreds of thousands, with llama.cpp's functions. Knows nothing of Python. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The ids of tokens with one of these attributes go to `found`, which has room for `num_tokens`; how many they are. */
size_t tokens_with(int (*attributes)(const void *vocab, int32_t token_id), const void *vocab, int32_t num_tokens,
                   int wanted, int32_t *found) {
    size_t num_found = 0;
    for (int32_t token_id = 0; token_id < num_tokens; token_id++)
        if (attributes(vocab, token_id) & wanted) found[num_found++] = token_id;
    return num_found;
}

/* The same for those of which llama.cpp says yes. */
size_t tokens_that(bool (*is)(const void *vocab, int32_t token_id), const void *vocab, int32_t num_tokens,
                   int32_t *found) {
    size_t num_found = 0;
    for (int32_t token_id = 0; token_id < num_tokens; token_id++)
        if (is(vocab, token_id)) found[num_found++] = token_id;
    return num_found;
}
