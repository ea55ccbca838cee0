"""What clients ask for. Texts are made of common words, which are a token each; the same seed makes the same texts.

A workload drives one server and returns all answers; every text it sends is new to the server, but for what the
workload is about. Knows nothing of servers but their address. The closed loop of people's lengths is in people.py.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any, NamedTuple

from benchmarks import people
from benchmarks.client import CHAT, COMPLETIONS, Answer, ask
from benchmarks.people import NUM_UNIQUE, PROMPT_WORDS, unique_text

WORDS = people.WORDS  # other programs take them from here
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "ignore_eos": True}
MODEL = "demo"
UNEQUAL = 0.08  # of a prompt: how far the longest is from the shortest
TOKENS_OF_AN_ITEM = 14  # of the structured answers' lists


class Shape(NamedTuple):
    """Sizes in tokens, and a time."""

    prompt: int = 128
    tokens: int = 128
    shared: int = 1000  # of a system prompt, or of a conversation's first prompt
    long: int = 4000  # of a prompt that comes in between
    seconds: float = 12.0  # that the closed loop is measured for


class Driver:
    """Sends to one server."""

    def __init__(self, url: str, shape: Shape, seed: int, more: dict[str, Any] | None = None) -> None:
        self.url = url
        self.shape = shape
        self.seed = seed
        self.random = random.Random(seed)
        self.more = more or {}  # of each request: what one kind of server needs beside

    def words(self, count: int) -> str:
        """Text of about so many tokens that begins like no other."""
        return unique_text(self.random, count - NUM_UNIQUE)

    async def ask(self, prompt: str, tokens: int | None = None) -> Answer:
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens or self.shape.tokens, **SAMPLING, **self.more}
        return await ask(self.url, COMPLETIONS, body)

    async def ask_chat(self, body: dict[str, Any]) -> Answer:
        return await ask(self.url, CHAT, body)


async def loop(driver: Driver, concurrency: int) -> list[Answer]:
    """A closed loop of people: each asks anew when it has its answer. See people.py."""
    return await people.closed_loop(driver.url, concurrency, driver.shape.seconds, driver.seed, more=driver.more)


async def equal(driver: Driver, concurrency: int) -> list[Answer]:
    """Prompts and answers of one length, all at once."""
    return await burst(driver, [driver.shape.prompt] * concurrency)


async def unequal(driver: Driver, concurrency: int) -> list[Answer]:
    """The same with prompts that differ a little: by up to 8 %, as 130 to 140 tokens do."""
    spread = round(driver.shape.prompt * UNEQUAL)
    first = driver.shape.prompt + 2
    return await burst(driver, [driver.random.randint(first, first + spread) for _ in range(concurrency)])


async def lognormal(driver: Driver, concurrency: int) -> list[Answer]:
    """The same with prompts of people's lengths."""
    return await burst(driver, [PROMPT_WORDS.draw(driver.random) for _ in range(concurrency)])


async def burst(driver: Driver, prompt_tokens: list[int]) -> list[Answer]:
    """A completion for each, all at once."""
    prompts = [driver.words(count) for count in prompt_tokens]
    return list(await asyncio.gather(*map(driver.ask, prompts)))


async def shared_prompt(driver: Driver, concurrency: int) -> list[Answer]:
    """A system prompt that the server has not seen before, and a question of each."""
    system = driver.words(driver.shape.shared)
    prompts = [f"{system} {driver.words(24)}" for _ in range(concurrency)]
    return list(await asyncio.gather(*map(driver.ask, prompts)))


async def turns(driver: Driver, concurrency: int, count: int = 3) -> list[Answer]:
    """Conversations of a few turns; each sends the whole history."""

    async def conversation() -> list[Answer]:
        history, answers = driver.words(driver.shape.shared), list[Answer]()
        for _ in range(count):
            answers.append(await driver.ask(history, driver.shape.tokens // 2))
            history += answers[-1].text + " " + driver.words(24)
        return answers

    return list(chain(*await asyncio.gather(*(conversation() for _ in range(concurrency)))))


async def long_prompt(driver: Driver, concurrency: int) -> list[Answer]:
    """The last one, among running chats. Answers are theirs, and their gaps those while it is computed."""
    prompts = [driver.words(driver.shape.prompt) for _ in range(max(1, concurrency - 1))]
    running = [asyncio.create_task(driver.ask(prompt)) for prompt in prompts]
    await asyncio.sleep(0)
    probe = await driver.ask(driver.words(16), 4)  # by its end the others generate
    intruder = await driver.ask(driver.words(driver.shape.long), 4)
    answers = list(await asyncio.gather(*running))
    for answer in answers:
        answer.window = (intruder.started, intruder.arrivals[0] if intruder.arrivals else intruder.ended)
    answers[0].error = answers[0].error or probe.error or intruder.error
    return answers


async def trace(driver: Driver, concurrency: int) -> list[Answer]:
    """Open loop: arrivals do not wait for answers. Poisson, four a client; lengths vary by exponential laws."""

    async def arrive(delay: float) -> Answer:
        await asyncio.sleep(delay)
        prompt = min(4 * driver.shape.prompt, 16 + int(driver.random.expovariate(1 / driver.shape.prompt)))
        tokens = min(4 * driver.shape.tokens, 8 + int(driver.random.expovariate(2 / driver.shape.tokens)))
        return await driver.ask(driver.words(prompt), tokens)

    alone = await driver.ask(driver.words(driver.shape.prompt), driver.shape.tokens // 2)
    seconds = (alone.ended - alone.started) * 4  # as long as each client would take for four, alone on the server
    delays = sorted(driver.random.uniform(0, seconds) for _ in range(4 * concurrency))
    return list(await asyncio.gather(*map(arrive, delays)))


async def structured(driver: Driver, concurrency: int) -> list[Answer]:
    """Chats whose answers follow a JSON schema, all at once. They end where it is complete, after about so many tokens
    as the shape has; `max_tokens` is a limit for answers that lose their way."""

    async def chat() -> Answer:
        about = driver.words(driver.shape.prompt)
        body = {
            "messages": [
                {"role": "user", "content": f"{about}\nWrite down words of this text, with numbers, as JSON."}
            ],
            "max_tokens": 4 * driver.shape.tokens,
            "response_format": list_format(max(1, driver.shape.tokens // TOKENS_OF_AN_ITEM)),
            "temperature": SAMPLING["temperature"],
        }
        answer = await driver.ask_chat(body)
        answer.error = answer.error or fault(answer.text)
        return answer

    return list(await asyncio.gather(*(chat() for _ in range(concurrency))))


def fault(text: str) -> str:
    """Why an answer is no JSON; empty if it is."""
    try:
        json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    return ""


def list_format(num_items: int) -> dict[str, Any]:
    """A list of exactly so many words and numbers, in OpenAI's form and in that of llama-server."""
    item = {
        "type": "object",
        "properties": {
            "word": {"type": "string", "maxLength": 12},
            "number": {"type": "integer", "minimum": 100, "maximum": 999},
        },
        "required": ["word", "number"],
        "additionalProperties": False,
    }
    schema = {"type": "array", "items": item, "minItems": num_items, "maxItems": num_items}
    return {"type": "json_schema", "json_schema": {"name": "words", "strict": True, "schema": schema}}


Workload = Callable[[Driver, int], Awaitable[list[Answer]]]
BURSTS = ("equal", "unequal", "lognormal")  # of prompts that come all at once
WORKLOADS: dict[str, Workload] = {
    "loop": loop,
    "equal": equal,
    "unequal": unequal,
    "lognormal": lognormal,
    "shared": shared_prompt,
    "turns": turns,
    "long": long_prompt,
    "trace": trace,
    "structured": structured,
}
ALIASES = {"chats": ["equal"]}  # names that were
