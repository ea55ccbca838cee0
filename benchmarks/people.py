"""A closed loop in the shapes of people's chats: each asks over the chat route, and anew when it has its answer.

Prompts and answers have log-normal lengths. They are drawn from the seed and the client's number alone, so every server
gets the same questions in the same order, however fast it is.
"""

import asyncio
import math
import random
import time
from typing import Any, NamedTuple

from benchmarks.client import CHAT, Answer, Client

WORDS = (
    *("time", "way", "day", "man", "thing", "woman", "life", "child", "world", "school"),
    *("state", "family", "student", "group", "country", "problem", "hand", "part"),
)
NUM_UNIQUE = 8  # digits that a text begins with; with the space before it each is two tokens
PATIENCE = 12.0  # seconds that answers are waited for after the last question


class Lengths(NamedTuple):
    """A log-normal law, clipped."""

    median: int
    sigma: float
    least: int
    most: int

    def draw(self, source: random.Random) -> int:
        length = source.lognormvariate(math.log(self.median), self.sigma)
        return max(self.least, min(self.most, round(length)))


PROMPT_WORDS = Lengths(120, 0.8, 20, 900)
ANSWER_TOKENS = Lengths(90, 0.7, 8, 400)
MEAN_PROMPT_TOKENS, MEAN_ANSWER_TOKENS = 200, 113  # of many draws, with a chat template's frame of about 28 tokens
MOST_TOKENS = PROMPT_WORDS.most + NUM_UNIQUE + ANSWER_TOKENS.most + 100  # of a prompt in its frame and its answer


def unique_text(source: random.Random, num_words: int) -> str:
    """Words, a token each, after digits that no other text begins with. At least the digits."""
    digits = [str(source.randrange(10)) for _ in range(NUM_UNIQUE)]
    return " ".join([*digits, *source.choices(WORDS, k=max(0, num_words - NUM_UNIQUE))])


def question(source: random.Random) -> dict[str, Any]:
    """The body of a person's next request."""
    return {
        "messages": [{"role": "user", "content": unique_text(source, PROMPT_WORDS.draw(source))}],
        "max_tokens": ANSWER_TOKENS.draw(source),
        "temperature": 0.8,
        "ignore_eos": True,
    }


async def closed_loop(
    url: str,
    concurrency: int,
    seconds: float,
    seed: int,
    *,
    more: dict[str, Any] | None = None,
    key: str = "",
    patience: float = PATIENCE,
    answers: list[Answer] | None = None,
) -> list[Answer]:
    """All answers, of whom `window` is the measured time: from the first question, for so many seconds.

    Questions are asked within it. Their answers are read to the end, so that the times to the first text are known for
    all; an answer that has not ended `patience` seconds later is cut. `more` is added to each body, where None takes a
    field away. A list that is given gets the answers as they end, for a caller that cancels the loop.
    """
    clients = [Client(url, key) for _ in range(concurrency)]
    answers = [] if answers is None else answers
    begin = time.perf_counter()
    end = begin + seconds

    async def person(number: int, client: Client) -> None:
        source = random.Random(f"{seed} {number}")
        while time.perf_counter() < end:
            body = {**question(source), **(more or {})}
            answer = await client.ask(CHAT, {name: value for name, value in body.items() if value is not None})
            answers.append(answer)
            if answer.error:
                await asyncio.sleep(1)  # a server that refuses is not asked in a busy loop

    tasks = [asyncio.create_task(person(number, client)) for number, client in enumerate(clients)]
    try:
        done, late = await asyncio.wait(tasks, timeout=seconds + patience)
    finally:
        for task in tasks:
            task.cancel()
        for client in clients:
            client.close()
    await asyncio.gather(*late, return_exceptions=True)
    await asyncio.gather(*done)
    for client in clients:
        if client.answer is not None and not client.answer.ended:
            client.answer.is_cut = True
            client.answer.ended = time.perf_counter()
            answers.append(client.answer)
    for answer in answers:
        answer.window = (begin, end)
    return answers
