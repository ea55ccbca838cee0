"""A still of the terminal for the README: a real chat with the demo model, as SVG.

python -m tests.docs.still docs/images/terminal.svg
"""

import asyncio
import io
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.docs.pages import Fence, Mark
from tests.docs.reader import Reader, copy_repository
from tests.gateway.terminal import CTRL_D, Terminal, in_terminal

COLUMNS, MAX_LINES = 80, 18
COMMAND = "python -m local_gateway chat"
QUESTIONS = ("What is the capital of France?", "Write a Python function that adds two numbers. Only code.")
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
SERVER = Fence("still", 0, "sh", "python -m local_gateway --demo\n", Mark("serve"))
_PIECE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]")


def main() -> None:
    target = Path(sys.argv[1])
    target.write_text(as_svg(asyncio.run(session())))
    sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")


async def session() -> str:
    """All that the program wrote to its terminal."""
    with tempfile.TemporaryDirectory(prefix="docs-") as folder, Reader(Path(folder)) as reader:
        copy_repository(reader.folder)
        reader.follow(SERVER)
        await chat(reader)  # the model is loaded and its prompt in the cache, as in any second chat
        output = await chat(reader)
        reader.stop_server()
        return output.replace(f":{reader.port}/", ":8000/")


async def chat(reader: Reader) -> str:
    command = [str(reader.folder / ".venv/bin/python"), "-m", "local_gateway", "chat"]
    with in_terminal(command, {**reader.environment(), "TERM": "xterm-256color"}, reader.folder) as terminal:
        for question in QUESTIONS:
            await ask(terminal, question)
        await terminal.until("> ")
        output = terminal.output
        terminal.type(CTRL_D)
        await terminal.end()
    return output


async def ask(terminal: Terminal, question: str) -> None:
    await terminal.until("> ")
    terminal.type(f"{question}\r")
    await terminal.until("tokens/s")


def as_svg(output: str) -> str:
    """The last screen. No font is fetched for it, from nowhere."""
    lines = styled_lines(output)
    while lines and not Text.from_ansi(lines[-1]).plain.strip(" >"):
        lines.pop()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"\x1b[2m$\x1b[0m {COMMAND}"))
    for line in lines[: MAX_LINES - 1]:
        console.print(Text.from_ansi(line))
    svg = console.export_svg(title="gguf-on-runpod", theme=MONOKAI, unique_id="still")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return re.sub(r"font-family: Fira Code, monospace", f"font-family: {FONT}", svg)


def styled_lines(output: str) -> list[str]:
    """What stays on the screen: text with its colours, without what was erased or written over."""
    rows: list[list[str]] = [[]]
    row = column = 0
    style = ""
    for match in _PIECE.finditer(output):
        piece, argument, action = match[0], match[1], match[2]
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row, column = row + 1, 0
            rows += [[] for _ in range(row + 1 - len(rows))]
        elif action == "A":
            row = max(0, row - int(argument or 1))
        elif action == "K":
            del rows[row][0 if argument == "2" else column :]
        elif action == "m":
            style = "" if argument in ("", "0") else style + piece
        elif action is None:
            rows[row] += [" "] * (column - len(rows[row]))
            rows[row][column : column + 1] = [f"{style}{piece}\x1b[0m" if style else piece]
            column += 1
    return ["".join(cells).rstrip() for cells in rows]


if __name__ == "__main__":
    main()
