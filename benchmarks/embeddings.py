"""Embeddings over HTTP by OpenAI's client: many inputs in one request, beside one request after the other.

    python benchmarks/embeddings.py http://127.0.0.1:8001/v1 MODEL [--inputs 64] [--rounds 5] [--words 12]

Both in turns, so that a busy neighbour hits both; medians. Says also how many calls of llama.cpp each took.
"""

import argparse
import statistics
import time

import requests
from openai import OpenAI

TIMEOUT = 600.0  # seconds
TEXT = (
    "the capital of a country is where its government sits and the people who live there speak of it as home when they "
    "travel to another city by train or over the sea with a map and some bread"
)
WORDS = TEXT.split(" ")


def texts_of(num_texts: int, num_words: int, start: int) -> list[str]:
    """Different ones each time."""
    return [
        " ".join(WORDS[(start + 7 * number + word) % len(WORDS)] for word in range(num_words)) + f" {start + number}"
        for number in range(num_texts)
    ]


def num_batches(url: str) -> int:
    health = requests.get(f"{url.removesuffix('/v1')}/health", timeout=TIMEOUT).json()
    return int(health["num_batches"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--inputs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--words", type=int, default=12)
    args = parser.parse_args()
    client = OpenAI(base_url=args.url, api_key="none", max_retries=0, timeout=TIMEOUT)
    seconds: dict[str, list[float]] = {"together": [], "one by one": []}
    batches = dict.fromkeys(seconds, 0)
    for number in range(args.rounds + 1):  # the first is not counted
        for way, times in seconds.items():
            texts = texts_of(args.inputs, args.words, 1000 * number)
            requests_of = [texts] if way == "together" else [[text] for text in texts]
            before, start = num_batches(args.url), time.perf_counter()
            for inputs in requests_of:
                client.embeddings.create(model=args.model, input=inputs)
            if number:
                times.append(time.perf_counter() - start)
            batches[way] = num_batches(args.url) - before
    together, alone = (statistics.median(times) for times in seconds.values())
    print(f"{args.inputs} inputs of {args.words} words")  # noqa: T201
    for way, times in seconds.items():
        spread = f"{min(times):.3f} to {max(times):.3f}"
        print(f"  {way:12}{statistics.median(times):8.3f} s ({spread}), {batches[way]} batches")  # noqa: T201
    print(f"  {alone / together:.2f} times as fast together")  # noqa: T201


if __name__ == "__main__":
    main()
