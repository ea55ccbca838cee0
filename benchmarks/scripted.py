"""The worker over HTTP with a model that takes a fixed time per step and no processor: what is left is our own cost.

    python benchmarks/scripted.py --port 9001 --step-ms 2
    python -m benchmarks.cost --url http://127.0.0.1:9001/v1 --name scripted --concurrency 64

The second drives it; profile it meanwhile (`py-spy record --gil --pid`), to see the engine's and the edge's cost at
concurrencies that would otherwise need a GPU. Its tokens are letters. With `--prefill-ms` each slot has cells of its
own, and prompts are computed beside answers, as on a GPU: a part in so many milliseconds.
"""

import argparse
import asyncio
import sys
import time
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import uvicorn  # the path comes first

from handler.api.chat import ChatCompletions
from handler.api.completions import Completions
from handler.api.infill import Infills
from handler.api.model_names import ServedNames
from handler.api.routes import Api
from handler.api.tokens import Tokens
from handler.chat.template import ChatTemplate
from handler.engine.batch import Batch
from handler.engine.constraint import Constraint
from handler.engine.engine import Engine
from handler.engine.part_size import FixedPartSize
from handler.engine.prefill_lane import PrefillLane
from handler.engine.prefill_queue import Piece
from handler.engine.prompt import MixedText
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits
from handler.engine.sequence import SampledToken, Sampler
from handler.engine.step_times import StepTimes
from handler.engine.structured.grammar import Grammar
from handler.errors import InvalidRequestError
from handler.http.edge import HttpEdge
from handler.settings import Settings
from handler.worker import Worker

NUM_CELLS, SLOT_CELLS = 262_144, 8_192
MAX_NUM_SEQS = 64
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
LETTERS = b" etaoinshrdlu"


class Letters:
    """Every byte is a token; nothing ends an answer."""

    num_tokens = 256

    @cached_property
    def end_of_generation(self) -> frozenset[int]:
        return frozenset()

    def is_end_of_generation(self, token_id: int) -> bool:
        return token_id < 0

    def piece(self, token_id: int) -> bytes:
        return bytes([token_id])

    def special_token(self, text: str) -> int | None:
        return None


class NoMemory:
    """Cells cost nothing here."""

    shares_prefixes = True

    def __init__(self, *, is_unified: bool) -> None:
        self.is_unified = is_unified

    def can_resume(self, seq_id: int, num_tokens: int) -> bool:
        return True

    def copy(self, source: int, target: int, num_tokens: int) -> None: ...

    def restore(self, seq_id: int, state: object) -> bool:
        return True

    def truncate(self, seq_id: int, num_tokens: int) -> bool:
        return True

    def clear(self, seq_id: int) -> None: ...


class NoSampler:
    def close(self) -> None: ...


class NoSchemas:
    def known(self, constraint: Constraint) -> Grammar | None:
        return None

    def compile(self, constraint: Constraint) -> Grammar:
        raise InvalidRequestError("A script follows no schema.")

    def close(self) -> None: ...


class ScriptedRunner:
    """Steps of a fixed length, in which the GIL is free, as while a GPU computes."""

    def __init__(self, step_seconds: float, *, is_unified: bool = True) -> None:
        self.num_slots = 2 * MAX_NUM_SEQS
        self.num_cells = NUM_CELLS if is_unified else self.num_slots * SLOT_CELLS
        self.max_model_len = NUM_CELLS if is_unified else SLOT_CELLS
        self.max_whole_run = 0
        self.memory = NoMemory(is_unified=is_unified)
        self.vocabulary = Letters()
        self.num_steps = 0
        self._step_seconds = step_seconds
        self._ends = 0.0

    def tokenize(self, text: str | MixedText, *, add_special: bool = True) -> list[int]:
        plain = text.text if isinstance(text, MixedText) else text
        return list(plain.encode())

    def tokenize_plain(self, text: str) -> list[int]:
        return self.tokenize(text)

    @property
    def fim_tokens(self) -> None:
        """It has none."""

    def make_sampler(self, params: SamplingParams, prompt_token_ids: list[int]) -> Sampler:
        return NoSampler()

    def launch(self, batch: Batch, times: StepTimes) -> None:
        self._ends = time.perf_counter() + self._step_seconds

    def collect(self, batch: Batch, times: StepTimes) -> list[list[SampledToken]]:
        time.sleep(max(0.0, self._ends - time.perf_counter()))
        times.lap("wait")
        self.num_steps += 1
        token = SampledToken(LETTERS[self.num_steps % len(LETTERS)])
        return [[token]] * len(batch.sampling)

    def close(self) -> None: ...


class ScriptedPrefillContext:
    """Parts of a fixed length."""

    num_streams, num_cells, part_tokens, max_tokens = 32, 2 * SLOT_CELLS, 512, SLOT_CELLS
    is_16bit = False

    def __init__(self, part_seconds: float) -> None:
        self._part_seconds = part_seconds

    def compute(self, pieces: list[Piece]) -> None:
        time.sleep(self._part_seconds)

    def state(self, stream: int) -> int:
        return stream

    def close(self) -> None: ...


def create_engine(runner: ScriptedRunner, max_num_seqs: int, lane: PrefillLane | None = None) -> Engine:
    limits = Limits(max_num_seqs, max_batch_tokens=16384, max_prompt_tokens=16384)
    return Engine(runner, limits, max_queue=1000, schemas=NoSchemas(), lane=lane)


def make_worker(runner: ScriptedRunner, part_seconds: float | None = None) -> Worker:
    part = FixedPartSize(512)
    lane = None if part_seconds is None else PrefillLane(ScriptedPrefillContext(part_seconds), part)
    engine = create_engine(runner, MAX_NUM_SEQS, lane)
    names = ServedNames(("scripted",))
    template = ChatTemplate(TEMPLATE, bos_token="", eos_token="")
    chat, completions = ChatCompletions(engine, lambda: template, names), Completions(engine, names)
    api = Api(chat, completions, Infills(engine, names), Tokens(engine, names), names)
    return Worker(api, engine)


async def serve(port: int, runner: ScriptedRunner, part_seconds: float | None) -> None:
    edge = HttpEdge(Settings.from_env({}))
    edge.worker = make_worker(runner, part_seconds)
    config = uvicorn.Config(edge.app, port=port, lifespan="off", ws="none", log_config=None, access_log=False)
    await uvicorn.Server(config).serve()
    edge.worker.engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--step-ms", type=float, default=2.0)
    parser.add_argument("--prefill-ms", type=float, help="of a part of 512 tokens beside the answers")
    args = parser.parse_args()
    part_seconds = None if args.prefill_ms is None else args.prefill_ms / 1000
    runner = ScriptedRunner(args.step_ms / 1000, is_unified=part_seconds is None)
    asyncio.run(serve(args.port, runner, part_seconds))


if __name__ == "__main__":
    main()
