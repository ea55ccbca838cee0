"""Many requests at once, some of them cancelled: the others are answered as by an engine that does nothing else."""

import asyncio
import random
from dataclasses import replace

from handler.engine.engine import Engine
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import FinishReason
from tests.engine.asking import GREEDY, Answer, ask, assert_same_tokens, forget, read

Result = tuple[list[int], SamplingParams, Answer]


def random_tokens(rng: random.Random, num_tokens: int) -> list[int]:
    return [rng.randrange(10, 250) for _ in range(num_tokens)]


async def check_random_traffic(engine: Engine, fresh: Engine, *, num_clients: int = 5, num_turns: int = 8) -> None:
    clients = await asyncio.gather(*(client(engine, seed, num_turns) for seed in range(num_clients)))
    results = [result for results in clients for result in results]
    assert len(results) > num_clients * num_turns / 2
    for prompt, params, answer in results:
        assert answer.finish_reason is FinishReason.LENGTH
        assert answer.usage.num_completion_tokens == params.max_tokens
        await forget(fresh)
        assert_same_tokens(answer, await ask(fresh, prompt, params))


async def client(engine: Engine, seed: int, num_turns: int) -> list[Result]:
    """What was asked and answered, one after the other."""
    rng = random.Random(seed)
    results: list[Result] = []
    for _ in range(num_turns):
        shared = random_tokens(random.Random(rng.randrange(3)), rng.choice([0, 40, 60, 80]))
        prompt = shared + random_tokens(rng, rng.randint(20, 60))
        params = replace(GREEDY, max_tokens=rng.randint(20, 70), num_logprobs=2)
        generation = await engine.generate([prompt], params)
        if rng.random() < 0.25:
            for _ in range(rng.randrange(4)):
                await anext(generation, None)
            generation.cancel()
        else:
            results.append((prompt, params, await read(generation)))
    return results
