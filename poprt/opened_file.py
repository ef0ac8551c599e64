"""A file that is opened once and then read, mapped and watched through that one descriptor."""

from __future__ import annotations

import io
import mmap
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from poprt.errors import DamagedExecutableError, ExecutableError, NotAnExecutableError

Bytes = npt.NDArray[np.uint8]

_PIECE = 1 << 20
# A named pipe in the file's place must not make the open wait; Windows has neither such pipes nor the flag.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class OpenedFile:
    """A regular file as it is behind one descriptor, whatever happens to its name.

    Contents are read, not taken from the mapping, wherever they are needed while loading: a read of a file that was cut
    short is an error that can be reported, a look at its mapping kills the process (SIGBUS).

    Raises:
        OSError: the file cannot be opened.
        NotAnExecutableError: it is no regular file, or empty.
        ExecutableError: it cannot be mapped into memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, _FLAGS)
        weakref.finalize(self, os.close, self.descriptor)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotAnExecutableError(f"{path} is no regular file")
        if status.st_size == 0:
            raise NotAnExecutableError(f"{path} is empty")
        self.size = status.st_size
        self._written = status.st_mtime_ns
        self._reading = threading.Lock()
        self._file = io.FileIO(self.descriptor, closefd=False)
        try:
            self.mapping = mmap.mmap(self.descriptor, self.size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: cut short since
            raise ExecutableError(f"{path} cannot be mapped into memory: {error}") from error

    def read(self, start: int, end: int) -> bytes:
        """The bytes from ``start`` to ``end``, which lie within :attr:`size`.

        Raises:
            DamagedExecutableError: the file was cut short since it was opened.
        """
        return b"".join(bytes(piece) for piece in self.pieces(start, end))

    def pieces(self, start: int, end: int) -> Iterator[memoryview]:
        """The same, piece by piece in one buffer: use each before the next is asked for."""
        buffer = memoryview(bytearray(min(_PIECE, end - start)))
        while start < end:
            with self._reading:
                self._file.seek(start)
                count = self._file.readinto(buffer[: end - start])
            if not count:
                raise DamagedExecutableError(f"{self.path} was cut short while it was read")
            yield buffer[:count]
            start += count

    def view(self, start: int, end: int) -> Bytes:
        """The bytes from ``start`` to ``end`` as a read-only view of the mapping."""
        return np.frombuffer(self.mapping, np.uint8, end - start, start)

    def check_size(self) -> None:
        """Raise DamagedExecutableError where the file is no longer as long as it was: the mapping must not be read."""
        size = os.fstat(self.descriptor).st_size
        if size != self.size:
            raise DamagedExecutableError(
                f"{self.path} had {self.size} bytes when it was opened and has {size} now; {REPLACE}"
            )

    def was_written(self) -> bool:
        """Whether somebody wrote into the file since it was opened, as far as its time stamp tells."""
        return os.fstat(self.descriptor).st_mtime_ns != self._written


#: How to avoid what a writer in place breaks.
REPLACE = "write a new file and rename it into place instead of changing one that is in use"
