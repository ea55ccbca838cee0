"""Tiny GGUF encoders: BERT with random weights, for vectors or for ranking, written in milliseconds.

Also what a real BERT is written with: the vocabulary's form in GGUF and the names of the tensors.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter, PoolingType, TokenType

from tests.tiny_models import save

Array = npt.NDArray[np.float32]

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "and", "of", "paris", "rome", "is", "in", "france", "italy", "hello", "world", "##s", "##ing", "##er")
EMBED, FEED_FORWARD, HEADS, LAYERS = 32, 64, 4, 2


def tiny_tokens() -> list[str]:
    """A vocabulary that can write any lower-case English text."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?-"
    return list(dict.fromkeys([*SPECIALS, *WORDS, *letters, *(f"##{letter}" for letter in letters)]))


def write_tiny_encoder(path: Path, *, pooling: PoolingType = PoolingType.MEAN, context_length: int = 64) -> Path:
    """BERT of two layers; with `PoolingType.RANK` it has a head that gives a score."""
    rng = np.random.default_rng(7)
    tokens = tiny_tokens()
    tensors = dict(tensors_of_bert(rng, len(tokens), context_length))
    if pooling == PoolingType.RANK:
        tensors |= {"cls.weight": normal(rng, (EMBED, EMBED)), "cls.bias": np.zeros(EMBED, np.float32)}
        tensors |= {"cls.output.weight": normal(rng, (1, EMBED)) * 8, "cls.output.bias": np.zeros(1, np.float32)}
    sizes = {"layers": LAYERS, "embed": EMBED, "feed_forward": FEED_FORWARD, "heads": HEADS, "context": context_length}
    write_bert(path, tokens, tensors, sizes, pooling)
    return path


def write_bert(
    path: Path, tokens: Sequence[str], tensors: Mapping[str, Array], sizes: Mapping[str, int], pooling: PoolingType
) -> None:
    """`tokens` as in a vocab.txt, with the special ones of SPECIALS."""
    writer = GGUFWriter(path, "bert")
    writer.add_context_length(sizes["context"])
    writer.add_block_count(sizes["layers"])
    writer.add_embedding_length(sizes["embed"])
    writer.add_feed_forward_length(sizes["feed_forward"])
    writer.add_head_count(sizes["heads"])
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_in_gguf(token) for token in tokens])
    writer.add_token_types([TokenType.CONTROL if token in SPECIALS else TokenType.NORMAL for token in tokens])
    writer.add_token_type_count(len(tensors["token_types.weight"]))
    writer.add_bos_token_id(tokens.index("[CLS]"))
    writer.add_unk_token_id(tokens.index("[UNK]"))
    writer.add_sep_token_id(tokens.index("[SEP]"))
    writer.add_pad_token_id(tokens.index("[PAD]"))
    writer.add_mask_token_id(tokens.index("[MASK]"))
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    save(writer)


def _in_gguf(token: str) -> str:
    """A word begins with a mark there, and what continues one has none."""
    if token in SPECIALS:
        return token
    return token[2:] if token.startswith("##") else f"\u2581{token}"


def tensors_of_bert(rng: np.random.Generator, num_tokens: int, context_length: int) -> dict[str, Array]:
    tensors = {
        "token_embd.weight": normal(rng, (num_tokens, EMBED)),
        "token_types.weight": normal(rng, (2, EMBED)),
        "position_embd.weight": normal(rng, (context_length, EMBED)),
        **_norm("token_embd_norm"),
    }
    for layer in range(LAYERS):
        at = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors |= _linear(rng, f"{at}.{name}", EMBED, EMBED)
        tensors |= _linear(rng, f"{at}.ffn_up", FEED_FORWARD, EMBED)
        tensors |= _linear(rng, f"{at}.ffn_down", EMBED, FEED_FORWARD)
        tensors |= _norm(f"{at}.attn_output_norm") | _norm(f"{at}.layer_output_norm")
    return tensors


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    values: Array = (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)
    return values


def _linear(rng: np.random.Generator, name: str, width: int, depth: int) -> dict[str, Array]:
    return {f"{name}.weight": normal(rng, (width, depth)), f"{name}.bias": np.zeros(width, np.float32)}


def _norm(name: str) -> dict[str, Array]:
    return {f"{name}.weight": np.ones(EMBED, np.float32), f"{name}.bias": np.zeros(EMBED, np.float32)}
