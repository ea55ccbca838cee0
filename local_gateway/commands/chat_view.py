"""An answer in a terminal: Markdown that grows, and who is waited for until it does."""

from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.spinner import Spinner
from rich.text import Text

from local_gateway.commands.chat_session import Reply
from local_gateway.commands.markdown_blocks import MarkdownBlocks

REFRESH_SECONDS = 0.08  # between two pictures
CODE_THEME = "ansi_dark"  # the terminal's own colours
MARGIN = 3  # lines of the terminal that a growing block leaves free


class AnswerView:
    """Shows a Reply while it grows, and leaves it in the terminal. Finished blocks are printed and never touched again.

    The block that still grows is drawn again and again, of one that is higher than the terminal the end. Only the
    spinner has a thread: rich draws in the wrong place when something else is printed at the same time.
    """

    def __init__(self, console: Console, reply: Reply) -> None:
        self._console = console
        self._reply = reply
        self._blocks = MarkdownBlocks()
        self._waiting = Live(_Waiting(reply), console=console, transient=True, refresh_per_second=1 / REFRESH_SECONDS)
        self._growing = Live(console=console, transient=True, auto_refresh=False)
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        self._waiting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waiting.stop()
        self._growing.stop()
        self._print(self._blocks.rest)

    def add(self, text: str) -> None:
        """What the reply has more of now."""
        if not self._reply.text:
            return
        if not self._growing.is_started:
            self._waiting.stop()
            self._growing.start()
        blocks = self._blocks.feed(text)
        now = self._console.get_time()
        if blocks or now - self._drawn_at > REFRESH_SECONDS:
            self._drawn_at = now
            self._growing.update(_Lines(self._blocks.rest, max(1, self._console.height - MARGIN)))
            self._print(*blocks)
            self._growing.refresh()

    def _print(self, *blocks: str) -> None:
        for block in blocks:
            if block.strip():
                self._console.print(_Lines(block), Text())


class _Waiting:
    """Who is waited for, and since when."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._spinner = Spinner("dots", style="cyan")

    def __rich_console__(self, console: Console, _options: ConsoleOptions) -> RenderResult:
        self._spinner.update(text=Text(self._reply.status(console.get_time()), style="dim"))
        yield self._spinner


class _Lines:
    """Markdown without empty lines around it, so that blocks keep the same distance; or the last lines of it."""

    def __init__(self, text: str, max_lines: int | None = None) -> None:
        self._markdown = Markdown(text, code_theme=CODE_THEME, hyperlinks=False)
        self._max_lines = max_lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._markdown, options.update(height=None), pad=False)
        filled = [number for number, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
        lines = lines[filled[0] : filled[-1] + 1] if filled else []
        for line in lines[-self._max_lines :] if self._max_lines else lines:
            yield from line
            yield Segment.line()
