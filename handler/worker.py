"""A worker in one piece, as its edges see it. Imports neither llama.cpp nor OpenAI's types' package by itself."""

from typing import NamedTuple

from handler.api.routes import Routes
from handler.embedding.embedder import Embedder
from handler.engine.engine import Engine


class Worker(NamedTuple):
    """The API in front of the engine in front of a loaded model; of one that pools, in front of an embedder.

    Edges call `api` from their event loop, read the state of `engine`, and leave closing it to what assembled it.
    """

    api: Routes
    engine: Engine | Embedder
