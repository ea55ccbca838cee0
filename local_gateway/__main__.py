"""`python -m local_gateway`: see cli.py."""

import sys

from local_gateway.commands.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
