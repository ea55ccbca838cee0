"""`python -m local_gateway`, and the command `llama-gateway`: see commands/cli.py."""

import sys

from local_gateway.commands.cli import main


def run() -> None:
    """Ends the process with the command's exit status."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
