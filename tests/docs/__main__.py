"""Run the documentation's commands, page by page, with the real programs and the demo model.

python -m tests.docs                     all pages
python -m tests.docs README.md           some
python -m tests.docs --list              what is run, and why the rest is not
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.docs.pages import ROOT, Fence, fences_of, pages
from tests.docs.reader import BlockError, Reader, copy_repository


def main(argv: Sequence[str] | None = None) -> int:
    """The number of pages that failed, which is the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.docs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help="paths from the repository's root (default: all)")
    parser.add_argument("--list", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    fences = {page: fences_of(page) for page in ([ROOT / name for name in args.pages] or pages())}
    if args.list:
        for fence in (fence for page in fences.values() for fence in page if fence.mark):
            say(f"{fence.place:28} {fence.language:8} {fence.mark.verb if fence.mark else ''} {_reason_of(fence)}")
        return 0
    failed = sum(follow(page) for page in fences.values() if any(is_run(fence) for fence in page))
    num_run = sum(is_run(fence) for page in fences.values() for fence in page)
    say(
        f"{num_run} blocks were run, {failed} failed"
        if failed
        else f"{num_run} blocks were run, all as their pages say"
    )
    return failed


def is_run(fence: Fence) -> bool:
    """Whether the reader has something to do for it."""
    return fence.mark is not None and (fence.mark.verb in ("run", "serve", "output") or "file" in fence.mark.options)


def follow(page: Sequence[Fence]) -> int:
    """Run a page's blocks in their order. What follows a failed one is not run: it may build on it."""
    with tempfile.TemporaryDirectory(prefix="docs-") as folder, Reader(Path(folder)) as reader:
        copy_repository(reader.folder)
        for fence in filter(is_run, page):
            began = time.monotonic()
            try:
                reader.follow(fence)
            except BlockError as error:
                say(f"{fence.place:28} {fence.language:8} FAILED: {error}")
                return 1
            say(f"{fence.place:28} {fence.language:8} {time.monotonic() - began:6.1f} s")
        reader.stop_server()
    return 0


def _reason_of(fence: Fence) -> str:
    return fence.mark.reason if fence.mark else ""


def say(text: str) -> None:
    """Print it now, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
