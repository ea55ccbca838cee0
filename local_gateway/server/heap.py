"""When Python's garbage collector looks for cycles in this process.

What a request makes is freed by its reference counts when it ends: a test holds the request's path to that. So the
collector finds nothing at the default thresholds, and takes a tenth of the time of a request to find it.
"""

import gc

THRESHOLDS = (20_000, 20, 20)  # objects more than at the last look; then collections of the younger generation


def settle() -> None:
    """Called once, when all is made that lives as long as the process: from then on no collection looks at it.

    Cycles that are made later, by a reload or an error, are found as before, only less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
