"""What stands for an image among token ids."""

import numpy as np
import pytest

from handler.engine.media_run import MediaRun, whole_runs


def run(key: int, num_tokens: int, num_positions: int = 0) -> MediaRun:
    return MediaRun(key, np.zeros((num_tokens, 2), np.float32), num_positions=num_positions)


def test_ids_name_the_content() -> None:
    """Equal content has equal ids, other content others, and none is a token's."""
    assert run(5, 3).token_ids == run(5, 3).token_ids
    assert not set(run(5, 3).token_ids) & set(run(6, 3).token_ids)
    assert len(run(5, 3).token_ids) == 3
    assert max(run(1, 9).token_ids) < 0


def test_positions() -> None:
    """A run has a position for each token, unless it says that it has fewer."""
    assert run(1, 6).num_saved == 0
    assert run(1, 6, num_positions=2).num_saved == 4


@pytest.mark.parametrize(("wanted", "kept"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5), (7, 7), (8, 8)])
def test_no_run_is_cut(wanted: int, kept: int) -> None:
    """What is kept of the first tokens ends before a run or behind it, also between two that are equal."""
    token_ids = [7, 8, *run(5, 3).token_ids, *run(5, 2).token_ids, 9]

    assert whole_runs(token_ids, wanted) == kept
