"""Which tokens are in which slot of the KV cache: prefix reuse, placement, eviction, sizes."""
