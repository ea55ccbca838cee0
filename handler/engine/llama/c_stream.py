"""A `FILE *` of the C library that reads from an object of ours, for functions that take no other source of bytes.

By glibc's fopencookie; Linux only.
"""

import ctypes
from typing import Any, Protocol

from handler.errors import ModelError

BUFFER_BYTES = 1 << 16  # of the C library: smaller reads, such as a header's, are served from it
SEEK_SET, SEEK_CUR = 0, 1
FAILED = -1
FULLY_BUFFERED = 0  # stdio.h's _IOFBF, on Linux

_Read = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Seek = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64), ctypes.c_int)


class ByteSource(Protocol):
    """Bytes that can be read anywhere; by one thread at a time."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        ...

    def read_into(self, address: int, position: int, num_bytes: int) -> int:
        """Write up to `num_bytes`, at least one of them before the end, and return how many. Raises any exception."""
        ...


class _Functions(ctypes.Structure):
    """stdio.h's `cookie_io_functions_t`; without writing and closing."""

    _fields_ = (("read", _Read), ("write", ctypes.c_void_p), ("seek", _Seek), ("close", ctypes.c_void_p))


class CStream:
    """Owns the `FILE *`, not the source. `error` has what the source raised; the C library saw a failed read."""

    def __init__(self, source: ByteSource) -> None:
        """Raises ModelError where the C library cannot do this."""
        self._source = source
        self._position = 0
        self.error: Exception | None = None
        if not self.is_supported():
            raise ModelError("WEIGHTS=16bit needs Linux with the GNU C library.")
        self._libc: Any = ctypes.CDLL(None)
        self._functions = _Functions(read=_Read(self._read), seek=_Seek(self._seek))  # which must live as long
        self._libc.fopencookie.restype = ctypes.c_void_p
        self._libc.fopencookie.argtypes = (ctypes.c_void_p, ctypes.c_char_p, _Functions)
        self._libc.setvbuf.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        self._libc.fclose.argtypes = (ctypes.c_void_p,)
        self.pointer: int | None = self._libc.fopencookie(None, b"r", self._functions)
        if not self.pointer:
            raise ModelError("The C library cannot open a stream.")
        self._buffer = ctypes.create_string_buffer(BUFFER_BYTES)
        self._libc.setvbuf(self.pointer, self._buffer, FULLY_BUFFERED, BUFFER_BYTES)

    @staticmethod
    def is_supported() -> bool:
        """Whether the C library can make streams of what a program reads: glibc can."""
        return hasattr(ctypes.CDLL(None), "fopencookie")

    def close(self) -> None:
        self._libc.fclose(self.pointer)

    def _read(self, _cookie: object, address: int, num_bytes: int) -> int:
        try:
            num_read = self._source.read_into(address, self._position, num_bytes)
        except Exception as error:  # it cannot pass through C
            self.error = error
            return FAILED
        self._position += num_read
        return num_read

    def _seek(self, _cookie: object, offset: Any, whence: int) -> int:
        """`offset` is read, and then says where the stream is."""
        start = {SEEK_SET: 0, SEEK_CUR: self._position}.get(whence, self._source.size)
        self._position = offset[0] = start + offset[0]
        return 0
