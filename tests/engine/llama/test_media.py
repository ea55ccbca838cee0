"""Images through llama.cpp itself, on tiny models: the text is that of mtmd's own example code, whatever is reused."""

import asyncio
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from llama_cpp import mtmd_cpp as mtmd

from handler.engine.cache.cache_size import Layout
from handler.engine.engine import Engine
from handler.engine.llama.model import LlamaModel
from handler.engine.llama.projector import LlamaProjector
from handler.engine.media_run import MediaRun
from handler.engine.prompt import MediaPrompt
from handler.engine.speculative.prompt_lookup import PromptLookup
from handler.errors import InvalidRequestError, ModelError
from tests.engine.asking import GREEDY, Answer, ask, forget
from tests.engine.fake_projector import illustrated
from tests.engine.llama.tiny_engine import ON_CPU, open_engine
from tests.images import png
from tests.tiny_hearing import TOKENS as SOUND_TOKENS
from tests.tiny_hearing import wav, write_hearing_projector
from tests.tiny_models import EMBED, write_tiny_model
from tests.tiny_projectors import IMAGE_SIZE, Projector, write_seeing_model, write_tiny_projector

PROJECTORS: tuple[Projector, ...] = ("gemma3", "qwen2vl_merger")  # the tiny vocabularies lack a token of idefics3
CAT, DOG, COW = png(1), png(2), png(3)
WIDE = png(4, width=2 * IMAGE_SIZE)  # where the projector takes any shape, of another number of tokens
CASES: list[tuple[Projector, Layout, bool]] = [
    ("gemma3", "on", True),
    ("gemma3", "on", False),
    ("qwen2vl_merger", "on", True),
    ("qwen2vl_merger", "off", True),
]


class Files:
    """A model's and its projector's."""

    def __init__(self, folder: Path, projector: Projector) -> None:
        self.model = write_seeing_model(folder / "model.gguf", projector)
        self.projector = write_tiny_projector(folder / "mmproj-model.gguf", projector)

    def open(self, **options: Any) -> Any:
        return open_engine(self.model, projector=self.projector, **{"num_slots": 4, "n_ctx": 512, **options})


@pytest.fixture(params=PROJECTORS)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return Files(tmp_path, request.param)


class Example:
    """What mtmd's own helper makes of a prompt, and llama.cpp of that: greedy tokens, one after the other."""

    def __init__(self, files: Files) -> None:
        self._model = LlamaModel(files.model, ON_CPU)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = 1
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        self._context = llama_cpp.llama_init_from_model(self._model.pointer, params)
        self._projector = LlamaProjector(files.projector, self._model, n_threads=1, use_gpu=False)

    def close(self) -> None:
        self._projector.close()
        llama_cpp.llama_free(self._context)
        self._model.close()

    def tokens(self, prompt: MediaPrompt, num_tokens: int) -> list[int]:
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), 0, -1, -1)
        position = self._evaluate(prompt)
        tokens: list[int] = []
        while True:
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, -1), (self._num_tokens,))
            tokens.append(int(logits.argmax()))
            if len(tokens) == num_tokens:
                return tokens
            self._append(tokens[-1], position)
            position += 1

    @property
    def _num_tokens(self) -> int:
        return int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model.pointer)))

    def _append(self, token_id: int, position: int) -> None:
        batch = llama_cpp.llama_batch_init(1, 0, 1)
        batch.n_tokens, batch.token[0], batch.pos[0], batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = (
            *(1, token_id, position, 1, 0, 1),
        )
        assert llama_cpp.llama_decode(self._context, batch) == 0
        llama_cpp.llama_batch_free(batch)

    def _evaluate(self, prompt: MediaPrompt) -> int:
        """The position behind the prompt."""
        context = self._projector._context
        text = mtmd.mtmd_default_marker().join(part.text.encode() for part in prompt.texts)
        options = mtmd.mtmd_helper_init_opt_default()
        bitmaps = []
        for data in prompt.media:
            buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
            bitmaps.append(
                mtmd.mtmd_helper_bitmap_init_from_buf_wrapper(context, buffer, len(data), False, options).bitmap
            )
        chunks = mtmd.mtmd_input_chunks_init()
        assert chunks is not None
        given = mtmd.mtmd_input_text(text, len(text), True, True)
        pointers = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
        assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(given), pointers, len(bitmaps)) == 0
        end = llama_cpp.llama_pos(0)
        result = mtmd.mtmd_helper_eval_chunks(
            context,
            self._context,
            chunks,
            llama_cpp.llama_pos(0),
            llama_cpp.llama_seq_id(0),
            512,
            True,
            ctypes.byref(end),
        )
        assert result == 0
        mtmd.mtmd_input_chunks_free(chunks)
        for bitmap in bitmaps:
            mtmd.mtmd_bitmap_free(bitmap)
        return int(end.value)


@contextmanager
def example(files: Files) -> Iterator[Example]:
    opened = Example(files)
    try:
        yield opened
    finally:
        opened.close()


PROMPTS = [
    illustrated("hello ", CAT, " the world"),
    illustrated(DOG, "and "),
    illustrated("of the ", CAT, " and ", WIDE, CAT, " is to the hello "),
]


@pytest.mark.parametrize(("projector", "kv_unified", "swa_full"), CASES)
async def test_text_is_that_of_mtmd(projector: Projector, kv_unified: Layout, swa_full: bool, tmp_path: Path) -> None:
    """For one image, none before any text, and several of different sizes; alone, at once, and from the cache."""
    files = Files(tmp_path, projector)
    with example(files) as reference:
        expected = [reference.tokens(prompt, 24) for prompt in PROMPTS]

    with files.open(kv_unified=kv_unified, swa_full=swa_full) as engine:
        alone = []
        for prompt in PROMPTS:
            await forget(engine)
            alone.append(await ask(engine, prompt))
        together = await asyncio.gather(*(ask(engine, prompt) for prompt in PROMPTS * 2))
        again = [await ask(engine, prompt) for prompt in PROMPTS]

    assert [answer.token_ids for answer in alone] == expected
    assert [answer.token_ids for answer in together] == expected * 2
    assert [answer.token_ids for answer in again] == expected


async def test_text_around_is_unaffected(files: Files) -> None:
    """Chats without images beside one with them say what they say alone."""
    texts = ["hello world", "of the ing and of the er"]
    with files.open() as engine:
        alone = [await ask(engine, text) for text in texts]
        await forget(engine)
        *beside, looking = await asyncio.gather(*(ask(engine, text) for text in texts), ask(engine, PROMPTS[2]))

    assert [answer.text for answer in beside] == [answer.text for answer in alone]
    assert looking.usage.num_prompt_tokens > 3 * (IMAGE_SIZE // 8) ** 2


async def test_the_same_image_twice(files: Files) -> None:
    """The encoder ran once, and the second chat took the first one's prompt from the cache."""
    with files.open() as engine:
        first, second = await ask(engine, PROMPTS[0]), await ask(engine, PROMPTS[0])
        num_encoded = encoder_of(engine).num_encoded

    assert num_encoded == 1
    assert second.usage.num_cached_tokens == first.usage.num_prompt_tokens - 1
    assert second.token_ids == first.token_ids


def encoder_of(engine: Engine) -> Any:
    return engine._encoder


async def test_a_second_turn_reuses_the_image(files: Files) -> None:
    """All of the first turn, answer included, and its text is that of a fresh cache."""
    with files.open() as engine:
        first = await ask(engine, PROMPTS[0])
        turn = illustrated("hello ", CAT, " the world" + first.text + " and then")
        second = await ask(engine, turn)
        await forget(engine)
        fresh = await ask(engine, turn)

    assert second.usage.num_cached_tokens >= first.usage.num_prompt_tokens
    assert fresh.usage.num_cached_tokens == 0
    assert second.token_ids == fresh.token_ids


async def test_other_images_are_seen(files: Files) -> None:
    """Two chats with different images share the text before them, and say different things."""
    with files.open() as engine:
        cat = await ask(engine, illustrated("hello ", CAT, " the"))
        dog = await ask(engine, illustrated("hello ", DOG, " the"))
        before = await engine.tokenize(illustrated("hello ", COW, " the"))

    assert dog.usage.num_cached_tokens < before.index(min(before))
    assert cat.text != dog.text


async def test_a_cache_that_is_too_small_for_all(files: Files) -> None:
    """Chats are preempted between their images and begin anew; no text changes."""
    with files.open() as engine:
        expected = []
        for prompt in PROMPTS:
            await forget(engine)
            expected.append((await ask(engine, prompt)).token_ids)
    with files.open(n_ctx=256) as engine:
        answers: list[Answer] = []
        for _ in range(3):
            answers += await asyncio.gather(*(ask(engine, prompt) for prompt in PROMPTS))

    assert [answer.token_ids for answer in answers] == expected * 3


async def test_drafts(files: Files) -> None:
    """Prompt lookup changes no text of a chat with an image."""
    params = replace(GREEDY, max_tokens=40)
    prompt = illustrated("the world and of the world and ", CAT, " the world and of the")
    with files.open() as engine:
        expected = await ask(engine, prompt, params)
    with files.open(drafter=PromptLookup(sizes=(2, 1))) as engine:
        answer = await ask(engine, prompt, params)

    assert answer.token_ids == expected.token_ids


@pytest.mark.parametrize("data", [CAT[:-40], CAT[:60], b"RIFF\0\0\0\0WEBPVP8 ", b"ID3", wav(), b"\0" * 100, b""])
async def test_what_is_no_image(files: Files, data: bytes) -> None:
    """Is refused; in particular it is not taken for a sound or a video."""
    with files.open() as engine:
        with pytest.raises(InvalidRequestError, match="damaged"):
            await ask(engine, illustrated("hello ", data, "?"))
        assert (await ask(engine, PROMPTS[0])).text


async def test_exact_seeds(tmp_path: Path) -> None:
    """A seeded chat with images says the same whatever else runs, and whether its beginning is cached."""
    params = replace(GREEDY, temperature=1.0, seed=7)
    prompt = illustrated("the world is on the hello of ", CAT, " the world and ", DOG, " the world is on")
    with Files(tmp_path, "qwen2vl_merger").open(kv_unified="off", exact_grid=8) as engine:
        alone = await ask(engine, prompt, params)
        again = await ask(engine, prompt, params)
        beside, *_ = await asyncio.gather(ask(engine, prompt, params), *(ask(engine, other) for other in PROMPTS))

    assert again.usage.num_cached_tokens
    assert again.logprobs == alone.logprobs
    assert beside.logprobs == alone.logprobs


def test_a_projector_of_another_model(tmp_path: Path) -> None:
    """Is refused with llama.cpp's reason, and so is one whose tokens the vocabulary lacks, and what is no projector."""
    model = LlamaModel(write_tiny_model(tmp_path / "model.gguf", "llama"), ON_CPU)
    lacking = write_tiny_projector(tmp_path / "mmproj.gguf", "idefics3")
    with pytest.raises(ModelError, match="vocabulary lacks"):
        LlamaProjector(lacking, model, n_threads=1, use_gpu=False)
    with pytest.raises(ModelError, match=r"llama\.cpp cannot use"):
        LlamaProjector(tmp_path / "model.gguf", model, n_threads=1, use_gpu=False)
    model.close()


@pytest.mark.parametrize(("image_tokens", "number"), [((0, 0), 16), ((32, 0), 36), ((0, 9), 9)])
def test_images_are_scaled(image_tokens: tuple[int, int], number: int, tmp_path: Path) -> None:
    """To the numbers of tokens that are set, where a projector takes any size."""
    files = Files(tmp_path, "qwen2vl_merger")
    model = LlamaModel(files.model, ON_CPU)
    opened = LlamaProjector(files.projector, model, n_threads=1, use_gpu=False, image_tokens=image_tokens)
    (run,) = (part for part in opened.encode(CAT) if isinstance(part, MediaRun))
    opened.close()
    model.close()

    assert run.num_tokens == number


async def test_sounds(tmp_path: Path) -> None:
    """A model that hears says what mtmd's example code says, of a sound in one part and of one in two; each is encoded
    once, and the second turn takes it from the cache."""
    files = Files(tmp_path, "idefics3")
    write_hearing_projector(files.projector)
    prompts = [illustrated("hello ", wav(1), " the world"), illustrated(wav(2, 31), "and ", wav(1), " the ")]
    with example(files) as reference:
        expected = [reference.tokens(prompt, 24) for prompt in prompts]

    with files.open() as engine:
        assert (engine.sees, engine.hears) == (False, True)
        alone = [await ask(engine, prompt) for prompt in prompts]
        again = await asyncio.gather(*(ask(engine, prompt) for prompt in prompts))
        num_encoded = encoder_of(engine).num_encoded
        with pytest.raises(InvalidRequestError, match="cannot read"):
            await ask(engine, illustrated(CAT, "?"))

    assert [answer.token_ids for answer in alone] == expected
    assert [answer.token_ids for answer in again] == expected
    assert alone[1].usage.num_prompt_tokens > 3 * SOUND_TOKENS
    assert again[0].usage.num_cached_tokens == alone[0].usage.num_prompt_tokens - 1
    assert num_encoded == 2


def test_room_on_a_gpu(tmp_path: Path) -> None:
    """Where it would compute on one, an image has been computed before the model's cache takes what is left."""
    files = Files(tmp_path, "gemma3")
    model = LlamaModel(files.model, ON_CPU)
    opened = LlamaProjector(files.projector, model, n_threads=1, use_gpu=True)
    embeddings = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(opened._context), (16, EMBED)).copy()
    parts = opened.encode(png(5))
    opened.close()
    model.close()

    assert np.isfinite(embeddings).all()
    assert embeddings.any()
    assert any(isinstance(part, MediaRun) for part in parts)
    opened = LlamaProjector(
        write_hearing_projector(tmp_path / "hears.gguf"),
        model := LlamaModel(write_tiny_model(tmp_path / "llama.gguf", "llama"), ON_CPU),
        n_threads=1,
        use_gpu=True,
    )
    assert np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(opened._context), (SOUND_TOKENS, EMBED)).any()
    opened.close()
    model.close()


def test_whole_runs_are_measured(tmp_path: Path) -> None:
    """Only images whose tokens see each other in both directions ask for a batch that holds them."""
    sizes = []
    for projector in PROJECTORS:
        files = Files(tmp_path, projector)
        model = LlamaModel(files.model, ON_CPU)
        opened = LlamaProjector(files.projector, model, n_threads=1, use_gpu=False)
        sizes.append(opened.max_whole_run)
        opened.close()
        model.close()

    assert sizes == [16, 0]
