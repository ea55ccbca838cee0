"""What is decided before a model is loaded, and known of it then. Apart from an engine's plan, whose imports would
delay the load."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from handler.engine.cache.cache_size import CacheShape
from handler.settings import Settings

Pooling = Literal["mean", "cls", "last", "rank"]


class ModelFacts(NamedTuple):
    """What matters of a loaded model."""

    n_ctx_train: int  # tokens of a sequence
    window: int  # tokens that a sliding window's layers attend to; 0: none
    has_states: bool  # recurrent or hybrid: the memory of some layers is one state of all tokens
    cache_shape: CacheShape
    is_causal: bool = True  # a decoder; encoders see all of a text at once, and generate none
    pooling: Pooling | None = None  # how the file says that tokens become one vector; None: nothing is said
    expanded_bytes: int = 0  # of the weights in 16 bits; 0: they are, or nothing is known to be gained by it
    max_whole_run: int = 0  # tokens of an image that must be computed in one piece; 0: there are none


@dataclass(frozen=True, slots=True)
class Offload:
    """How a model is spread over GPUs, in llama.cpp's own parameters."""

    n_gpu_layers: int = -1  # -1: all
    split_mode: str = "layer"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()  # proportions of the GPUs; empty: by their free memory


def offload(settings: Settings) -> Offload:
    """What must be known before the model is loaded."""
    return Offload(settings.n_gpu_layers, settings.split_mode, settings.main_gpu, settings.tensor_split)
