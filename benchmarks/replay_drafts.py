"""What prompt lookup brings to known texts, with steps of known cost: computed, not timed, so the same on any machine.

    python benchmarks/replay_drafts.py --commits cdd644e~60..cdd644e --drafted 4,8,12,16,24 --sequences 1,4,8

The texts are files of this repository, changed by a commit: the old one is the prompt, the new one the answer, as of a
model that edits without a mistake. Steps cost what --step-ms says, by default the demo model on one core without
sampling; sequences are taken to draft alike. Only the tokenizer of MODEL is loaded.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import llama_cpp.llama_cpp as llama  # the path comes first
import numpy as np

from handler.engine.llama.backend import supports_gpu
from handler.engine.llama.vocabulary import ModelVocabulary
from handler.engine.speculative.draft_length import DraftLength
from handler.engine.speculative.prompt_lookup import SIZES, NgramIndex
from handler.models.locate import locate
from handler.settings import Settings

ROOT = Path(__file__).parents[1]
STEP_MS = "1:54,4:91,8:115,16:177,64:497,512:4029"  # by the tokens in it, as in docs/measurements.md
MAX_TOKENS = 4000  # of an old or a new file


class Edit(NamedTuple):
    token_ids: list[int]  # the old file, then the new one
    num_prompt_tokens: int


class Replay(NamedTuple):
    num_steps: int = 0
    num_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    milliseconds: float = 0.0  # of one sequence's share

    def plus(self, other: "Replay") -> "Replay":
        return Replay._make(mine + theirs for mine, theirs in zip(self, other, strict=True))


class StepCost(NamedTuple):
    """Between the numbers of tokens that were measured, on straight lines."""

    num_tokens: tuple[float, ...]
    milliseconds: tuple[float, ...]

    def of(self, num_tokens: int) -> float:
        return float(np.interp(num_tokens, self.num_tokens, self.milliseconds))


def replay(edit: Edit, sizes: tuple[int, ...], max_tokens: int, num_sequences: int, step: StepCost) -> Replay:
    """The answer, step by step, with the worker's own index and rule for a draft's length."""
    index, length, told, result = NgramIndex(sizes), DraftLength(max_tokens), edit.num_prompt_tokens + 1, Replay()
    while told < len(edit.token_ids):
        wanted = min(length.next(), len(edit.token_ids) - told - 1)
        draft = index.follow(edit.token_ids[:told], wanted) if wanted > 0 else []
        right = next((n for n, token_id in enumerate(draft) if edit.token_ids[told + n] != token_id), len(draft))
        if draft:
            length.learn(len(draft), right)
        cost = step.of(num_sequences * (1 + len(draft))) / num_sequences
        result = result.plus(Replay(1, right + 1, len(draft), right, cost))
        told += right + 1
    return result


def edits(commits: str, suffix: str, vocabulary: ModelVocabulary) -> Iterator[Edit]:
    """Up to three files of each commit."""
    for commit in git("rev-list", commits).split():
        for name in git("diff", "--name-only", "--diff-filter=M", f"{commit}^", commit, "--", f"*{suffix}").split()[:3]:
            old, new = (vocabulary.tokenize(git("show", f"{at}:{name}").encode()) for at in (f"{commit}^", commit))
            if old != new and len(old) < MAX_TOKENS > len(new):
                yield Edit(old + new, len(old))


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def load_vocabulary() -> ModelVocabulary:
    supports_gpu()  # llama.cpp is started
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(str(locate(Settings.from_env({}))).encode(), params)
    return ModelVocabulary(llama.llama_model_get_vocab(model))


def show(results: dict[tuple[int, int], Replay], step: StepCost) -> str:
    lines = ["sequences  drafted  tokens/step  accepted  of off"]
    for (num_sequences, drafted), result in results.items():
        alone = step.of(num_sequences) / num_sequences
        lines.append(
            f"{num_sequences:>9}  {drafted:>7}  {result.num_tokens / result.num_steps:>11.1f}"
            f"  {result.num_accepted / max(1, result.num_drafted):>8.2f}"
            f"  {alone * result.num_tokens / result.milliseconds:>6.2f}"
        )
    return "\n".join(lines) + "\n"


def parse(argv: list[str]) -> argparse.Namespace:
    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))

    def steps(text: str) -> StepCost:
        return StepCost(*zip(*(map(float, part.split(":")) for part in text.split(",")), strict=True))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", default="HEAD~60..HEAD")
    parser.add_argument("--suffix", default=".py", help="of the files")
    parser.add_argument("--sizes", type=numbers, default=SIZES, help="of the n-grams")
    parser.add_argument("--drafted", type=numbers, default=(4, 8, 12, 16, 24), help="tokens drafted at once, at most")
    parser.add_argument("--sequences", type=numbers, default=(1, 4, 8))
    parser.add_argument("--step-ms", type=steps, default=STEP_MS, help="of a step, by the tokens in it")
    return parser.parse_args(argv)


def main() -> None:
    args = parse(sys.argv[1:])
    texts = list(edits(args.commits, args.suffix, load_vocabulary()))
    results: dict[tuple[int, int], Replay] = {}
    for num_sequences in args.sequences:
        for drafted in args.drafted:
            result = Replay()
            for edit in texts:
                result = result.plus(replay(edit, args.sizes, drafted, num_sequences, args.step_ms))
            results[num_sequences, drafted] = result
    sys.stdout.write(f"{len(texts)} edits\n{show(results, args.step_ms)}")


if __name__ == "__main__":
    main()
