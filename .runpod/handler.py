"""RunPod's Hub looks for a file of this name. The worker is `python -m handler`, and that is what this file runs."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # here, `handler` would be this file
    runpy.run_module("handler", run_name="__main__", alter_sys=True)
