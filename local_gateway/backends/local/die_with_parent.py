"""A program that does not outlive the process that started it, even if that one is killed without warning.

    python -m local_gateway.backends.local.die_with_parent PARENT_PID PROGRAM [ARGUMENT ...]

Becomes PROGRAM. Before that it asks Linux to kill it when its parent ends, which holds for PROGRAM too. Elsewhere there
is no such request: then only a parent that ends in good order takes its child along.
"""

import ctypes
import os
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> NoReturn:
    parent_pid, *command = argv
    if sys.platform == "linux":
        _die_with_parent()
        # The parent may have ended before the request was made, and then no signal will come.
        if os.getppid() != int(parent_pid):
            sys.exit("error: The process that started this one is gone.")
    try:
        os.execvp(command[0], command)  # noqa: S606  # a shell in between would be tied to the parent instead
    except OSError as error:
        sys.exit(f"error: Cannot run {command[0]}: {error.strerror}.")


def _die_with_parent() -> None:
    """By SIGKILL: no process is left to follow up on a gentler signal. Strictly, the parent is a thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        sys.exit(f"error: Linux does not tie this process to its parent: {os.strerror(number)}.")


if __name__ == "__main__":
    main(sys.argv[1:])
