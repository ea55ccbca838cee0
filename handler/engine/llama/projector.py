"""llama.cpp's multimodal library, mtmd: image and sound files to embeddings for a loaded model."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from llama_cpp import mtmd_cpp as mtmd

from handler.engine.llama.backend import llama_log, log_callback
from handler.engine.llama.gguf_header import read_texts
from handler.engine.llama.model import LlamaModel, Pointer
from handler.engine.media_run import MediaRun
from handler.errors import EngineError, InvalidRequestError, ModelError

# What their images become depends on what stands before them in the prompt: their place among the tokens, or images.
DEPENDENT = ("deepseek4v", "hunyuanvl")
PROJECTOR_TYPES = ("clip.projector_type", "clip.vision.projector_type")
UNSET = -1  # to mtmd
PROBE = 2048  # pixels of each side of an image that is as large for all projectors as images become
PROBE_SECONDS = 30  # mtmd cuts sounds into parts as long as that, at most
NO_PROGRAMS = b"/nonexistent"  # where mtmd looks for ffmpeg, to which it would give what is no image


class LlamaProjector:
    """A `Projector`. Owns mtmd's context; the model, which must see as it does, is another's and outlives it.

    One thread after the constructor. mtmd itself decodes PNG, JPEG and GIF (of which it shows the first picture), and
    WAV: what bounds files, pixels and seconds comes before. Runs have no keys.
    """

    def __init__(
        self,
        path: Path,
        model: LlamaModel,
        *,
        n_threads: int,
        use_gpu: bool,
        image_tokens: tuple[int, int] = (0, 0),
    ) -> None:
        """Load it, in a moment to seconds. `image_tokens`: that an image of any size takes at least and at most, 0: the
        projector's own numbers. Raises ModelError."""
        mtmd.mtmd_helper_log_set(log_callback.function, None)  # mtmd's own too
        if kinds := set(DEPENDENT).intersection(read_texts(path, *PROJECTOR_TYPES)):
            raise ModelError(f"{path} is a projector of type {kinds.pop()}, which is not supported.")
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.n_threads, params.print_timings = use_gpu, n_threads, False
        params.image_min_tokens, params.image_max_tokens = (number or UNSET for number in image_tokens)
        llama_log.errors.clear()
        self._context: Pointer = mtmd.mtmd_init_from_file(str(path).encode(), model.pointer, params)
        if not self._context:
            raise ModelError(f"llama.cpp cannot use {path} with this model: {llama_log.reason()}.")
        self._width = llama.llama_model_n_embd_inp(model.pointer)
        self._in_two_dimensions = bool(mtmd.mtmd_decode_use_mrope(self._context))
        self.sees = bool(mtmd.mtmd_support_vision(self._context))
        self.hears = bool(mtmd.mtmd_support_audio(self._context))
        try:
            self.max_whole_run = self._max_whole_run(path)
            if use_gpu:
                self._compute_largest()
        except BaseException:
            self.close()
            raise

    def encode(self, data: bytes) -> list[list[int] | MediaRun]:
        with self._bitmap(data) as bitmap, self._chunks(bitmap) as chunks:
            parts = [_token_ids(chunk) if _is_text(chunk) else self._run(chunk) for chunk in chunks]
        if any(min(part) < 0 for part in parts if isinstance(part, list) and part):
            raise EngineError("The model's vocabulary lacks a token that its images need.")
        return parts

    def close(self) -> None:
        mtmd.mtmd_free(self._context)

    def _max_whole_run(self, path: Path) -> int:
        """The tokens of a large image, if they must be computed in one piece; else 0. Measured without pixels. Raises
        ModelError."""
        if not self.sees:
            if not self.hears:
                raise ModelError(f"{path} is no projector for images or sounds.")
            return 0  # sounds are causal
        bitmap = mtmd.mtmd_bitmap_init(PROBE, PROBE, None)
        try:
            with self._chunks(bitmap) as chunks:
                images = [chunk for chunk in chunks if not _is_text(chunk)]
                sizes = [mtmd.mtmd_input_chunk_get_n_tokens(chunk) for chunk in images]
                is_causal = not any(mtmd.mtmd_decode_use_non_causal(self._context, chunk) for chunk in images)
                if any(min(_token_ids(chunk), default=0) < 0 for chunk in chunks if _is_text(chunk)):
                    raise ModelError(f"{path} needs tokens that the model's vocabulary lacks.")
        except InvalidRequestError:
            raise ModelError(f"{path} cannot be used: {llama_log.reason()}.") from None
        finally:
            mtmd.mtmd_bitmap_free(bitmap)
        return 0 if is_causal else max(sizes)

    def _compute_largest(self) -> None:
        """So that mtmd has taken all the memory that it will need before the rest of a GPU is given away: if it found
        none later, the process would end. A second for the largest projectors. Raises ModelError."""
        if self.sees:
            self._compute(mtmd.mtmd_bitmap_init(PROBE, PROBE, (ctypes.c_uint8 * (3 * PROBE * PROBE))()))
        if self.hears:
            num_samples = PROBE_SECONDS * mtmd.mtmd_get_audio_sample_rate(self._context)
            self._compute(mtmd.mtmd_bitmap_init_from_audio(num_samples, (ctypes.c_float * num_samples)()))

    def _compute(self, bitmap: Pointer) -> None:
        try:
            with self._chunks(bitmap) as chunks:
                self._run(next(chunk for chunk in chunks if not _is_text(chunk)))
        except (EngineError, InvalidRequestError):
            raise ModelError(f"There is no room to read a large image or sound: {llama_log.reason()}.") from None
        finally:
            mtmd.mtmd_bitmap_free(bitmap)

    @contextmanager
    def _bitmap(self, data: bytes) -> Iterator[Pointer]:
        options = mtmd.mtmd_helper_init_opt_default()
        options.video_params.ffmpeg_bin_dir = NO_PROGRAMS
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        found = mtmd.mtmd_helper_bitmap_init_from_buf_wrapper(self._context, buffer, len(data), False, options)
        try:
            if not found.bitmap or found.video_ctx:
                raise InvalidRequestError("The image or sound is damaged.")
            yield found.bitmap
        finally:
            mtmd.mtmd_bitmap_free(found.bitmap)
            if found.video_ctx:
                mtmd.mtmd_helper_video_free(found.video_ctx)

    @contextmanager
    def _chunks(self, bitmap: Pointer) -> Iterator[list[Pointer]]:
        part = mtmd.mtmd_input_part(bitmap=bitmap)
        parts = (ctypes.POINTER(mtmd.mtmd_input_part) * 1)(ctypes.pointer(part))
        chunks: Any = mtmd.mtmd_input_chunks_init()
        try:
            if mtmd.mtmd_tokenize_from_parts(self._context, chunks, parts, 1, False) != 0:
                raise InvalidRequestError("The model cannot read this image or sound: its sides may be too unequal.")
            yield [mtmd.mtmd_input_chunks_get(chunks, place) for place in range(mtmd.mtmd_input_chunks_size(chunks))]
        finally:
            mtmd.mtmd_input_chunks_free(chunks)

    def _run(self, chunk: Pointer) -> MediaRun:
        if mtmd.mtmd_encode_chunk(self._context, chunk) != 0:
            raise EngineError("The model failed to read this image or sound.")
        num_tokens = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        output: Any = mtmd.mtmd_get_output_embd(self._context)
        embeddings = np.ctypeslib.as_array(output, (num_tokens, self._width)).copy()
        is_causal = not mtmd.mtmd_decode_use_non_causal(self._context, chunk)
        if not self._in_two_dimensions:
            return MediaRun(0, embeddings, is_causal)
        if _is_sound(chunk):
            line = np.arange(num_tokens, dtype=np.int32)
            return MediaRun(0, embeddings, is_causal, np.stack([line, line, line]))
        places = (mtmd.mtmd_decoder_pos * num_tokens)()
        mtmd.mtmd_helper_image_get_decoder_pos(mtmd.mtmd_input_chunk_get_tokens_image(chunk), 0, places)
        grid = np.array([[place.t, place.y, place.x] for place in places], np.int32).T
        return MediaRun(0, embeddings, is_causal, grid, mtmd.mtmd_input_chunk_get_n_pos(chunk))


def _is_text(chunk: Pointer) -> bool:
    return bool(mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT)


def _is_sound(chunk: Pointer) -> bool:
    return bool(mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_AUDIO)


def _token_ids(chunk: Pointer) -> list[int]:
    num_tokens = ctypes.c_size_t()
    token_ids: Any = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(num_tokens))
    return [int(token_ids[place]) for place in range(num_tokens.value)]
