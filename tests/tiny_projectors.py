"""Tiny projectors (mmproj GGUF files) with random weights, for the tiny models: images become embeddings of noise.

Real noise, as the tiny models' text is: another image has other embeddings. The same arguments write the same bytes.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from gguf import GGUFWriter

from tests.tiny_models import (
    CHATML,
    EMBED,
    HEAD,
    Architecture,
    Array,
    add_shape,
    add_tokenizer,
    byte_level_vocabulary,
    constant,
    normal,
    save,
    tensors,
    write_tiny_model,
)

# idefics3's and qwen2vl's images are decoded causally, gemma3's without a causal mask. qwen2vl's have positions in two
# dimensions, fewer than tokens.
Projector = Literal["idefics3", "gemma3", "qwen2vl_merger"]

WIDTH, FEED_FORWARD, HEADS, PATCH, MERGE = 32, 64, 2, 4, 2
IMAGE_SIZE = 32  # pixels of each side, to which llama.cpp scales an image
PATCHES = (IMAGE_SIZE // PATCH) ** 2
TOKENS = PATCHES // MERGE**2  # of a square image, without the text around it


def write_seeing_model(path: Path, projector: Projector) -> Path:
    """Write a text model that the projector fits."""
    if projector != "qwen2vl_merger":
        architectures: dict[str, Architecture] = {"idefics3": "llama", "gemma3": "gemma3"}
        return write_tiny_model(path, architectures[projector])
    writer = GGUFWriter(path, "qwen2vl")
    writer.add_context_length(512)
    add_shape(writer, "qwen2")
    writer.add_rope_dimension_sections([HEAD // 4, HEAD // 8, HEAD // 8, 0])
    add_tokenizer(writer, byte_level_vocabulary(), add_bos=True)
    writer.add_chat_template(CHATML)
    for name, tensor in tensors("qwen2", len(byte_level_vocabulary().tokens), np.random.default_rng(0)).items():
        writer.add_tensor(name, tensor)
    save(writer)
    return path


def write_tiny_projector(path: Path, projector: Projector, *, seed: int = 0) -> Path:
    """Write a vision encoder of one block, projected to the embeddings of `write_tiny_model`, to `path`."""
    writer = GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", projector)
    writer.add_bool("clip.use_gelu", True)
    writer.add_uint32("clip.vision.image_size", IMAGE_SIZE)
    writer.add_uint32("clip.vision.patch_size", PATCH)
    writer.add_uint32("clip.vision.embedding_length", WIDTH)
    writer.add_uint32("clip.vision.feed_forward_length", FEED_FORWARD)
    writer.add_uint32("clip.vision.block_count", 1)
    writer.add_uint32("clip.vision.projection_dim", EMBED)
    writer.add_uint32("clip.vision.attention.head_count", HEADS)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_uint32("clip.vision.projector.scale_factor", MERGE)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    for name, tensor in _projector_tensors(projector, np.random.default_rng(seed)).items():
        writer.add_tensor(name, tensor)
    save(writer)
    return path


def _projector_tensors(projector: Projector, rng: np.random.Generator) -> dict[str, Array]:
    ones, zeros = constant(1.0), constant(0.0)
    result = {
        "v.patch_embd.weight": normal(rng, (WIDTH, 3, PATCH, PATCH), (3 * PATCH * PATCH) ** -0.5),
        "v.post_ln.weight": ones(rng, (WIDTH,)),
        "v.post_ln.bias": zeros(rng, (WIDTH,)),
        "v.blk.0.ffn_up.weight": normal(rng, (FEED_FORWARD, WIDTH), WIDTH**-0.5),
        "v.blk.0.ffn_up.bias": zeros(rng, (FEED_FORWARD,)),
        "v.blk.0.ffn_down.weight": normal(rng, (WIDTH, FEED_FORWARD), FEED_FORWARD**-0.5),
        "v.blk.0.ffn_down.bias": zeros(rng, (WIDTH,)),
    }
    for norm in ("ln1", "ln2"):
        result |= {f"v.blk.0.{norm}.weight": ones(rng, (WIDTH,)), f"v.blk.0.{norm}.bias": zeros(rng, (WIDTH,))}
    for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
        result[f"v.blk.0.{part}.weight"] = normal(rng, (WIDTH, WIDTH), WIDTH**-0.5)
        result[f"v.blk.0.{part}.bias"] = zeros(rng, (WIDTH,))
    merged = WIDTH * MERGE**2
    if projector == "qwen2vl_merger":  # the other half of the first weights is for a second frame of a video
        result["v.patch_embd.weight.1"] = normal(rng, (WIDTH, 3, PATCH, PATCH), (3 * PATCH * PATCH) ** -0.5)
        result["mm.0.weight"] = normal(rng, (merged, merged), merged**-0.5)
        result["mm.2.weight"] = normal(rng, (EMBED, merged), 0.5 * merged**-0.5)
        result["mm.0.bias"], result["mm.2.bias"] = zeros(rng, (merged,)), zeros(rng, (EMBED,))
        return result
    result["v.patch_embd.bias"] = normal(rng, (WIDTH,), 0.1)
    result["v.position_embd.weight"] = normal(rng, (PATCHES, WIDTH), 0.3)
    if projector == "gemma3":  # stored transposed
        result["mm.input_projection.weight"] = normal(rng, (WIDTH, EMBED), WIDTH**-0.5)
        result["mm.soft_emb_norm.weight"] = ones(rng, (WIDTH,))
    else:
        result["mm.model.fc.weight"] = normal(rng, (EMBED, merged), 0.5 * merged**-0.5)
    return result
