"""Write a file so that its name stands for the whole old one or the whole new one at every moment.

A *draft* is written beside its target, as ``.NAME.PID.TOKEN.poprt-tmp``, and renamed over the target once its bytes are
on the disk. A draft that fails is removed. One whose process was killed is removed by the next draft for the same
target: a writer holds a lock on its draft, and the system releases it when the process ends. A process id would not
do, for a folder may be shared by containers that do not see each other's processes.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

if sys.platform == "win32":

    def _lock(descriptor: int, *, wait: bool = False) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

else:
    import fcntl

    def _lock(descriptor: int, *, wait: bool = False) -> None:
        """Raises BlockingIOError where another holds the lock, and OSError where the file system has no locks."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


_SUFFIX = ".poprt-tmp"


class Draft:
    """A file under way.

    Attributes:
        path: its temporary name, which is gone once it is published.
        file: open for reading and writing.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self.file = file

    def publish(self, target: Path) -> None:
        """Put the file in the place of ``target`` once its bytes are on the disk.

        Raises:
            OSError: they cannot be brought there, or ``target`` cannot be replaced.
        """
        self.file.flush()
        os.fsync(self.file.fileno())
        if sys.platform == "win32":
            self.file.close()  # an open file cannot be renamed there
        os.replace(self.path, target)
        _sync_folder(target.parent)


@contextmanager
def draft(target: str | Path) -> Iterator[Draft]:
    """A draft beside ``target``. Publish it before the block ends; otherwise it is removed.

    Raises:
        OSError: no file can be made there, or something that is no file has the name ``target``.
    """
    target = Path(target)
    check_target(target)
    _remove_stale(target)
    with ExitStack() as stack:
        yield _new_draft(target, stack)


@contextmanager
def replacing(target: str | Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``target`` when the block ends well, and vanishes when it does not.

    Raises:
        OSError: it cannot be written.
    """
    with draft(target) as new_file:
        yield new_file.file
        new_file.publish(Path(target))


@contextmanager
def one_at_a_time(target: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold off other processes that come here for the same ``target``; for the moment of publishing several files.

    The lock is a file beside ``target`` that goes when the block ends. Where there are no locks nobody is held off.

    Args:
        target: what is worked at.
        wait: until the others are through.

    Raises:
        BlockingIOError: without ``wait``: another process is at it.
    """
    path = target.with_name(f".{target.name}.poprt-lock")
    with ExitStack() as stack:
        stack.callback(_remove_lock, path)  # before there is one: a signal may arrive at any line
        while not _hold(path, stack.enter_context(ExitStack()), wait):
            pass
        yield


def check_target(target: Path) -> None:
    """See that ``target`` is free or a file.

    Raises:
        OSError: it is a folder, a device or the like, which must not be replaced.
    """
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(target))


def _new_draft(target: Path, stack: ExitStack) -> Draft:
    while True:
        path = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(8)}{_SUFFIX}")
        stack.callback(_remove, path)  # before there is one: a signal may arrive at any line
        file = open(path, "x+b")  # noqa: SIM115  # the stack closes it
        stack.callback(_close, file)
        try:
            _lock(file.fileno())
        except BlockingIOError:
            continue  # somebody takes it for a stale one, in the moment before the lock
        except OSError:
            pass  # no locks here: then nobody else gets one either, and the draft is safe
        if _is_still(path, file.fileno()):
            return Draft(path, file)


def _remove_stale(target: Path) -> None:
    """Remove drafts for ``target`` that no process holds any more."""
    ours = re.compile(re.escape(f".{target.name}.") + r"\d+\.[0-9a-f]{16}" + re.escape(_SUFFIX))
    try:
        names = os.listdir(target.parent)
    except PermissionError:  # a folder that may be written to and not listed
        return
    for name in names:
        if ours.fullmatch(name):
            with suppress(OSError):  # in use, gone meanwhile, another user's, or nobody can tell
                _remove_unless_locked(target.with_name(name))


def _remove_unless_locked(path: Path) -> None:
    """Raises BlockingIOError where a process holds the file, and another OSError where that cannot be told."""
    with open(path, "r+b", opener=_no_link) as file:
        _lock(file.fileno())
        if _is_still(path, file.fileno()):  # from here on it stays so: others remove it only under this lock
            path.unlink()


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _hold(path: Path, stack: ExitStack, wait: bool) -> bool:
    """Lock the file ``path`` until ``stack`` closes, and close it at once where its last holder removed it."""
    # A file object closes itself, and so lets go, also where a signal comes between two lines.
    file = stack.enter_context(open(path, "ab"))  # noqa: SIM115  # it is the stack's
    try:
        _lock(file.fileno(), wait=wait)
    except BlockingIOError:  # never while it waits
        raise
    except OSError:
        pass  # no locks here
    if _is_still(path, file.fileno()):
        return True
    stack.close()
    return False


def _remove_lock(path: Path) -> None:
    try:
        _remove_unless_locked(path)
    except BlockingIOError:  # the next one holds it, who removes it
        pass
    except OSError:
        _remove(path)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the open file still has the name ``path``."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # a full disk: what could not be written fails once more here, and was reported before
        file.close()


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk; where a folder cannot be synchronised, that is up to the system."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
