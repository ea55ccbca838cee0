"""Vectors of texts, and scores of pairs, by models that pool: no sampling, no cache of conversations."""
