"""What draw.c gives a chain to choose from: none of the likeliest tokens is missed, and none is there twice."""

import ctypes

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest

from handler.engine.llama.draw import DrawPool, DrawRequest
from handler.engine.structured.token_mask import Logits

BLOCK = 64  # as in draw.c
NONE = 99  # a chain that chooses no token


class Chains:
    """Stands for llama.cpp's: each takes its first candidate, but NONE none. Remembers what it was offered."""

    def __init__(self) -> None:
        self.offered: dict[int, dict[int, float]] = {}  # to each chain
        self.accepted: dict[int, int] = {}
        array = ctypes.POINTER(llama.llama_token_data_array)
        self.functions = (
            ctypes.CFUNCTYPE(None, ctypes.c_size_t, array)(self._apply),
            ctypes.CFUNCTYPE(None, ctypes.c_size_t, ctypes.c_int32)(self._accept),
        )

    def _apply(self, chain: int, candidates: ctypes._Pointer) -> None:  # type: ignore[type-arg]  # llama.cpp's own
        array = candidates.contents
        assert not array.sorted
        tokens = [array.data[place] for place in range(array.size)]
        assert len({token.id for token in tokens}) == len(tokens), "one is there twice"
        assert all(token.p == 0 for token in tokens)
        self.offered[chain] = {token.id: token.logit for token in tokens}
        array.selected = -1 if chain == NONE else 0

    def _accept(self, chain: int, token_id: int) -> None:
        assert chain not in self.accepted, "drawn twice"
        self.accepted[chain] = token_id


def random_logits(num_rows: int, num_tokens: int) -> Logits:
    return np.random.default_rng(1).normal(size=(num_rows, num_tokens)).astype(np.float32)


def requests_for(logits: Logits, num: int) -> list[DrawRequest]:
    return [DrawRequest(chain=row + 1, num=num, row=row) for row in range(len(logits))]


def draw(logits: Logits, requests: list[DrawRequest], num_threads: int = 1) -> Chains:
    chains = Chains()
    crew = DrawPool(logits.shape[1], num_threads, chains.functions)
    crew.draw(list(map(ctypes.addressof, requests)), logits.ctypes.data)
    crew.close()
    return chains


def offered(logits: Logits, num: int) -> list[dict[int, float]]:
    """Token ids and logits, row by row."""
    return list(draw(logits, requests_for(logits, num)).offered.values())


@pytest.mark.parametrize("num_tokens", [1, 5, BLOCK, BLOCK * 40, BLOCK * 40 + 1, BLOCK * 41 - 1])
@pytest.mark.parametrize("num", [1, 3, 40, 41, 10_000])
def test_has_the_likeliest(num_tokens: int, num: int) -> None:
    """Whether or not the last tokens fill a block, with their own logits."""
    logits = random_logits(5, num_tokens)
    logits[2, -1] = 100  # among those that may fill none
    logits[3, 0] = 100
    for row, tokens in zip(logits, offered(logits, num), strict=True):
        assert set(np.argsort(row)[-num:].tolist()) <= set(tokens)
        assert all(row[token_id] == logit for token_id, logit in tokens.items())


def test_has_few_others() -> None:
    """That is what it is for."""
    assert max(map(len, offered(random_logits(5, BLOCK * 400), 40))) < 60


def test_equal_logits_are_all_there() -> None:
    """Which of equals are the likeliest is not decided here."""
    assert [len(tokens) for tokens in offered(np.zeros((2, BLOCK * 40), np.float32), 3)] == [BLOCK * 40] * 2


def test_forbidden_tokens_are_not_there() -> None:
    """Also where more were asked for than are allowed."""
    logits = np.full((2, BLOCK * 40), -np.inf, np.float32)
    logits[:, [7, 700]] = 1.0, 2.0
    assert offered(logits, 3) == [{7: 1.0, 700: 2.0}] * 2


def test_further_tokens() -> None:
    """Those named are there once, likely or not, unless they are forbidden."""
    logits = random_logits(2, BLOCK * 40)
    best, worst, forbidden = int(logits[1].argmax()), int(logits[1].argmin()), 5
    logits[1, forbidden] = -np.inf
    also = np.array([forbidden, best, worst], np.int64)
    first, second = requests_for(logits, 1)
    second.also, second.num_also = also.ctypes.data, len(also)
    chains = draw(logits, [first, second])
    assert set(chains.offered[1]) == {int(logits[0].argmax())}
    assert set(chains.offered[2]) == {best, worst}


def test_a_row_that_is_not_of_numbers() -> None:
    """All its tokens are there, and the others' likeliest."""
    logits = random_logits(3, BLOCK * 40)
    logits[1] = np.nan
    logits[2, 0] = np.nan
    assert [len(tokens) for tokens in offered(logits, 3)] == [3, BLOCK * 40, 3]


def test_what_is_chosen_is_accepted() -> None:
    """And is the answer."""
    logits = random_logits(3, BLOCK * 40)
    requests = requests_for(logits, 3)
    chains = draw(logits, requests)
    assert {request.chain: request.drawn for request in requests} == chains.accepted
    assert [request.drawn for request in requests] == [next(iter(tokens)) for tokens in chains.offered.values()]


def test_rows_in_any_order() -> None:
    """And not all of them."""
    logits = random_logits(4, BLOCK * 40)
    requests = [DrawRequest(chain=row + 1, num=1, row=row) for row in (3, 1)]
    draw(logits, requests)
    assert [request.drawn for request in requests] == [int(logits[row].argmax()) for row in (3, 1)]


@pytest.mark.parametrize("num_threads", [1, 2, 7])
def test_many_steps(num_threads: int) -> None:
    """However many threads share the rows, and however few rows there are: each is drawn once a step."""
    logits, chains = random_logits(9, BLOCK * 40), Chains()
    crew = DrawPool(logits.shape[1], num_threads, chains.functions)
    for step in range(200):
        requests = requests_for(logits, 1)[: 1 + step % 9]
        chains.accepted.clear()
        crew.draw(list(map(ctypes.addressof, requests)), logits.ctypes.data)
        assert chains.accepted == {row + 1: int(logits[row].argmax()) for row in range(len(requests))}
    crew.close()


def test_a_chain_that_chooses_none() -> None:
    """It has no answer that could be taken for a token."""
    request = DrawRequest(chain=NONE, num=1)
    assert not draw(random_logits(1, 5), [request]).accepted
    assert request.drawn == -1


def test_llamas_structs_are_ours() -> None:
    """draw.c has them by heart."""
    data, array = llama.llama_token_data, llama.llama_token_data_array
    assert [(data.id.offset, data.logit.offset, data.p.offset), ctypes.sizeof(data)] == [(0, 4, 8), 12]
    offsets = (array.data.offset, array.size.offset, array.selected.offset, array.sorted.offset)
    assert (offsets, ctypes.sizeof(array)) == ((0, 8, 16, 24), 32)
    assert ctypes.sizeof(DrawRequest) == 48
