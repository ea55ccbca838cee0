"""Tiny GGUF models with random weights: every kind of llama.cpp memory, written in milliseconds, with no download.

They speak noise, but real noise: greedy text changes with the prompt, each logit depends on the whole context, and
the best token wins by far more than float32 rounds away.  Special tokens always score 0, which is never the best, so
greedy text runs until the caller stops it.  The same arguments write the same bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from gguf import GGUFValueType, GGUFWriter, TokenType

Architecture = Literal["llama", "qwen2", "gemma3", "mamba", "jamba"]  # jamba: a recurrent layer, then one of attention
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

SPECIAL_TOKENS = ("<unk>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
UNK, BOS, _, _, EOS = range(len(SPECIAL_TOKENS))  # llama.cpp ends a text at <|endoftext|> too
WORDS = (" the", " and", " of", " to", " is", " wor", "hello", "ing", "er", "on")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

EMBED, FEED_FORWARD, HEADS, KV_HEADS, HEAD = 64, 128, 4, 2, 16
INNER, STATE, CONV, TIME_STEP = 2 * EMBED, 8, 4, 8  # of a mamba layer
LOGIT_SCALE = 4.0  # standard deviation of the logits

Array = npt.NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]
Initial = Callable[[np.random.Generator, tuple[int, ...]], Array]

FEED: Shapes = {
    "ffn_norm.weight": (EMBED,),
    "ffn_gate.weight": (FEED_FORWARD, EMBED),
    "ffn_up.weight": (FEED_FORWARD, EMBED),
    "ffn_down.weight": (EMBED, FEED_FORWARD),
}
ATTENTION: Shapes = {
    "attn_norm.weight": (EMBED,),
    "attn_q.weight": (HEADS * HEAD, EMBED),
    "attn_k.weight": (KV_HEADS * HEAD, EMBED),
    "attn_v.weight": (KV_HEADS * HEAD, EMBED),
    "attn_output.weight": (EMBED, HEADS * HEAD),
}
ATTENTION_BIASES: Shapes = {
    "attn_q.bias": (HEADS * HEAD,),
    "attn_k.bias": (KV_HEADS * HEAD,),
    "attn_v.bias": (KV_HEADS * HEAD,),
}
GEMMA_NORMS: Shapes = {
    "attn_q_norm.weight": (HEAD,),
    "attn_k_norm.weight": (HEAD,),
    "post_attention_norm.weight": (EMBED,),
    "post_ffw_norm.weight": (EMBED,),
}
MAMBA: Shapes = {
    "attn_norm.weight": (EMBED,),
    "ssm_in.weight": (2 * INNER, EMBED),
    "ssm_conv1d.weight": (INNER, CONV),
    "ssm_conv1d.bias": (INNER,),
    "ssm_x.weight": (TIME_STEP + 2 * STATE, INNER),
    "ssm_dt.weight": (INNER, TIME_STEP),
    "ssm_dt.bias": (INNER,),
    "ssm_a": (INNER, STATE),
    "ssm_d": (INNER,),
    "ssm_out.weight": (EMBED, INNER),
}
MAMBA_NORMS: Shapes = {
    "ssm_dt_norm.weight": (TIME_STEP,),
    "ssm_b_norm.weight": (STATE,),
    "ssm_c_norm.weight": (STATE,),
}
LAYERS: dict[Architecture, tuple[Shapes, ...]] = {
    "llama": (ATTENTION | FEED,) * 2,
    "qwen2": (ATTENTION | ATTENTION_BIASES | FEED,) * 2,
    "gemma3": (ATTENTION | GEMMA_NORMS | FEED,) * 2,
    "mamba": (MAMBA,) * 2,
    "jamba": (MAMBA | MAMBA_NORMS | FEED, ATTENTION | FEED),
}


class Vocabulary(NamedTuple):
    """A tokenizer as GGUF stores it; `merges` for byte-level BPE, `scores` for SentencePiece."""

    model: str
    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    scores: list[float]


def write_tiny_model(
    path: Path,
    architecture: Architecture,
    *,
    seed: int = 0,
    context_length: int = 512,
    sliding_window: int = 32,
    chat_template: str | Sequence[Mapping[str, str]] | None = CHATML,
    add_bos: bool = True,
) -> Path:
    """Write a model of two layers to `path`; `sliding_window` is that of gemma3's first layer, the second has none."""
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(context_length)
    add_shape(writer, architecture)
    if architecture == "gemma3":
        writer.add_sliding_window(sliding_window)
        writer.add_sliding_window_pattern([True, False])
    vocabulary = sentencepiece_vocabulary() if architecture == "gemma3" else byte_level_vocabulary()
    add_tokenizer(writer, vocabulary, add_bos)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    rng = np.random.default_rng(seed)
    for name, tensor in tensors(architecture, len(vocabulary.tokens), rng).items():
        writer.add_tensor(name, tensor)
    save(writer)
    return path


def write_tiny_adapter(
    path: Path,
    architecture: Architecture,
    *,
    seed: int = 1,
    rank: int = 4,
    scale: float = 1.0,
    invocation_tokens: Sequence[int] = (),
) -> Path:
    """Write a LoRA adapter for such a model's matrices, which changes what it says; with invocation tokens, an
    activated one (aLoRA)."""
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", scale * rank)
    if invocation_tokens:
        key, tokens = "adapter.alora.invocation_tokens", list(invocation_tokens)
        writer.add_key_value(key, tokens, GGUFValueType.ARRAY, GGUFValueType.UINT32)
    rng = np.random.default_rng(seed)
    for index, layer in enumerate(LAYERS[architecture]):
        for name, shape in layer.items():
            if name.endswith(("attn_q.weight", "attn_v.weight", "ffn_down.weight", "ssm_out.weight")):
                num_outputs, num_inputs = shape
                writer.add_tensor(f"blk.{index}.{name}.lora_a", normal(rng, (rank, num_inputs), num_inputs**-0.5))
                writer.add_tensor(f"blk.{index}.{name}.lora_b", normal(rng, (num_outputs, rank), rank**-0.5))
    save(writer)
    return path


def write_tiny_models(folder: Path) -> dict[Architecture, Path]:
    """One model of each architecture, as the defaults have it."""
    return {name: write_tiny_model(folder / f"{name}.gguf", name) for name in ARCHITECTURES}


def save(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_shape(writer: GGUFWriter, architecture: Architecture) -> None:
    layers = LAYERS[architecture]
    attention = ["attn_q.weight" in layer for layer in layers]
    writer.add_block_count(len(layers))
    writer.add_embedding_length(EMBED)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_feed_forward_length(FEED_FORWARD if "ffn_up.weight" in layers[0] else 0)
    writer.add_head_count(HEADS if any(attention) else 0)
    if any(attention):
        writer.add_head_count_kv([KV_HEADS * attends for attends in attention])
        writer.add_key_length(HEAD)
        writer.add_value_length(HEAD)
    if not all(attention):
        writer.add_ssm_conv_kernel(CONV)
        writer.add_ssm_inner_size(INNER)
        writer.add_ssm_state_size(STATE)
        writer.add_ssm_time_step_rank(TIME_STEP)


def add_tokenizer(writer: GGUFWriter, vocabulary: Vocabulary, add_bos: bool) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre("qwen2" if vocabulary.merges else "default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores(vocabulary.scores)
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(add_bos)
    writer.add_add_space_prefix(False)


def byte_level_vocabulary() -> Vocabulary:
    """GPT-2's kind of tokenizer: a token for each byte, merged from the left into a few words."""
    symbols = byte_symbols()
    words = ["".join(symbols[byte] for byte in word.encode()) for word in WORDS]
    pairs = dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word)))
    merged = [left + right for left, right in pairs]
    return complete("gpt2", symbols, TokenType.NORMAL, merged, [" ".join(pair) for pair in pairs])


def byte_symbols() -> list[str]:
    """The printable character by which byte-level BPE writes each byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 0x100 + others.index(byte)) for byte in range(256)]


def sentencepiece_vocabulary() -> Vocabulary:
    """Gemma's kind of tokenizer: all the beginnings of a few words, and a token for each byte of anything else."""
    words = [word.replace(" ", "\u2581") for word in WORDS]
    pieces = list(dict.fromkeys(word[:end] for word in words for end in range(1, len(word) + 1)))
    return complete("llama", [f"<0x{byte:02X}>" for byte in range(256)], TokenType.BYTE, pieces, [])


def complete(model: str, byte_tokens: list[str], kind: TokenType, pieces: list[str], merges: list[str]) -> Vocabulary:
    """Special tokens first, so that their ids are the same in both kinds of vocabulary."""
    tokens = [*SPECIAL_TOKENS, *byte_tokens, *pieces]
    types = [TokenType.UNKNOWN] + [TokenType.CONTROL] * (len(SPECIAL_TOKENS) - 1)
    types += [kind] * len(byte_tokens) + [TokenType.NORMAL] * len(pieces)
    return Vocabulary(model, tokens, types, merges, scores=[-float(rank) for rank in range(len(tokens))])


def tensors(architecture: Architecture, num_tokens: int, rng: np.random.Generator) -> dict[str, Array]:
    scaled_by_llama_cpp = np.sqrt(EMBED) if architecture == "gemma3" else 1.0
    embedding = normal(rng, (num_tokens, EMBED), 0.5 / scaled_by_llama_cpp)
    output = normal(rng, (num_tokens, EMBED), LOGIT_SCALE / np.sqrt(EMBED))
    output[: len(SPECIAL_TOKENS)] = 0
    result = {"token_embd.weight": embedding, "output_norm.weight": np.ones(EMBED, np.float32), "output.weight": output}
    for index, layer in enumerate(LAYERS[architecture]):
        result |= {f"blk.{index}.{name}": weights(rng, name, shape) for name, shape in layer.items()}
    return result


def weights(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    """What `INITIAL` says, else ones for a norm, else values that keep the size of what they multiply."""
    if name in INITIAL:
        return INITIAL[name](rng, shape)
    return constant(1.0)(rng, shape) if "norm" in name else normal(rng, shape, shape[-1] ** -0.5)


def normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Array:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def constant(value: float) -> Initial:
    return lambda _, shape: np.full(shape, value, np.float32)


def sharp(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Queries and keys large enough that attention picks tokens instead of averaging them all."""
    return normal(rng, shape, 1.2 * shape[-1] ** -0.5)


def small(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return normal(rng, shape, 0.1)


def decay(_: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Slow to quick forgetting over the states of each channel."""
    return np.broadcast_to(-np.geomspace(0.1, 2.0, shape[-1], dtype=np.float32), shape).copy()


def time_step(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Biases that softplus turns into time steps of 0.02 to 0.5."""
    steps = np.exp(rng.uniform(np.log(0.02), np.log(0.5), shape))
    return np.log(np.expm1(steps)).astype(np.float32)


INITIAL: dict[str, Initial] = {
    "attn_q.weight": sharp,
    "attn_k.weight": sharp,
    "attn_q_norm.weight": constant(1.5),
    "attn_k_norm.weight": constant(1.5),
    "post_attention_norm.weight": constant(0.5),
    # gemma3 has no feed-forward: its GELU is a table of float16 on a CPU, whose steps would show in the logits
    "post_ffw_norm.weight": constant(0.0),
    "attn_q.bias": small,
    "attn_k.bias": small,
    "attn_v.bias": small,
    "ssm_conv1d.bias": small,
    "ssm_dt.bias": time_step,
    "ssm_a": decay,
    "ssm_d": small,
}
