"""A tiny projector with random weights by which the tiny llama hears: each 30 seconds become embeddings of noise."""

import struct
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from tests.tiny_models import EMBED, Array, constant, normal, save

WIDTH, FEED_FORWARD, HEADS, MELS = 32, 64, 2, 80
POSITIONS = 1500  # of 30 seconds, into which mtmd cuts a sound
STACK = 100  # positions of one token
TOKENS = POSITIONS // STACK  # of 30 seconds or less


def write_hearing_projector(path: Path) -> Path:
    """Write an encoder of one block in the form of Whisper's, for `write_tiny_model`'s llama, to `path`."""
    writer = GGUFWriter(path, "clip")
    writer.add_bool("clip.has_audio_encoder", True)
    writer.add_string("clip.projector_type", "ultravox")
    writer.add_bool("clip.use_gelu", True)
    writer.add_uint32("clip.audio.embedding_length", WIDTH)
    writer.add_uint32("clip.audio.feed_forward_length", FEED_FORWARD)
    writer.add_uint32("clip.audio.block_count", 1)
    writer.add_uint32("clip.audio.projection_dim", EMBED)
    writer.add_uint32("clip.audio.attention.head_count", HEADS)
    writer.add_float32("clip.audio.attention.layer_norm_epsilon", 1e-5)
    writer.add_uint32("clip.audio.num_mel_bins", MELS)
    writer.add_uint32("clip.audio.projector.stack_factor", STACK)
    for name, tensor in _tensors(np.random.default_rng(0)).items():
        writer.add_tensor(name, tensor)
    save(writer)
    return path


def wav(seed: int = 0, seconds: float = 1.0, sample_rate: int = 16_000) -> bytes:
    """Noise that depends on the seed, in 16 bits and one channel."""
    samples = np.random.default_rng(seed).integers(-9000, 9000, int(seconds * sample_rate), dtype=np.int16).tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def _tensors(rng: np.random.Generator) -> dict[str, Array]:
    ones, zeros = constant(1.0), constant(0.0)
    stacked = WIDTH * STACK
    result = {
        "a.conv1d.1.weight": normal(rng, (WIDTH, MELS, 3), (3 * MELS) ** -0.5),
        "a.conv1d.1.bias": zeros(rng, (WIDTH, 1)),
        "a.conv1d.2.weight": normal(rng, (WIDTH, WIDTH, 3), (3 * WIDTH) ** -0.5),
        "a.conv1d.2.bias": zeros(rng, (WIDTH, 1)),
        "a.position_embd.weight": normal(rng, (POSITIONS, WIDTH), 0.3),
        "a.post_ln.weight": ones(rng, (WIDTH,)),
        "a.post_ln.bias": zeros(rng, (WIDTH,)),
        "a.blk.0.ffn_up.weight": normal(rng, (FEED_FORWARD, WIDTH), WIDTH**-0.5),
        "a.blk.0.ffn_up.bias": zeros(rng, (FEED_FORWARD,)),
        "a.blk.0.ffn_down.weight": normal(rng, (WIDTH, FEED_FORWARD), FEED_FORWARD**-0.5),
        "a.blk.0.ffn_down.bias": zeros(rng, (WIDTH,)),
        "mm.a.mlp.1.weight": normal(rng, (2 * WIDTH, stacked), stacked**-0.5),
        "mm.a.mlp.2.weight": normal(rng, (EMBED, WIDTH), 0.5 * WIDTH**-0.5),
        "mm.a.norm_pre.weight": ones(rng, (stacked,)),
        "mm.a.norm_mid.weight": ones(rng, (WIDTH,)),
    }
    for norm in ("ln1", "ln2"):
        result |= {f"a.blk.0.{norm}.weight": ones(rng, (WIDTH,)), f"a.blk.0.{norm}.bias": zeros(rng, (WIDTH,))}
    for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
        result[f"a.blk.0.{part}.weight"] = normal(rng, (WIDTH, WIDTH), WIDTH**-0.5)
        if part != "attn_k":
            result[f"a.blk.0.{part}.bias"] = zeros(rng, (WIDTH,))
    return result
