"""Keeps a memory-mapped file from counting as this process's memory for ever.

Every page of a map that was ever read stays resident: random reads of a generation of millions would grow each worker
to the size of the file, and a container's limit and eviction count it. Letting go of pages costs no disk read later:
they stay in the kernel's cache, shared by all workers.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Self, TypeVar

_MADV_DONTNEED = 4  # Linux; of a shared map of a file, it forgets nothing but that the pages were resident
_MAPS = Path("/proc/self/maps")
_STATM = Path("/proc/self/statm")
# With a page the kernel maps the cached ones around it, 64 KiB together: 64 MiB between two looks at most.
LOOK_EVERY = 1024
MOST_RESIDENT = 768 << 20
_OPENING = Lock()
_LIBC = ctypes.CDLL(None)

T = TypeVar("T")


class MappedFile:
    """One map of a file in this process; does nothing where the system has no /proc."""

    def __init__(self, ranges: set[tuple[int, int]]) -> None:
        self._lock = Lock()
        self._reads = 0
        self._ranges = ranges

    @classmethod
    def open(cls, path: Path, opener: Callable[[], T]) -> tuple[T, Self]:
        """What `opener` returns, which maps the file, and that map. Others of the same file belong to somebody else."""
        with _OPENING:
            before = _ranges(path)
            opened = opener()
            return opened, cls(_ranges(path) - before)

    def count(self, reads: int) -> None:
        """Count reads, each of which may touch new pages; let go of them where mapped files have grown too large."""
        self._reads += reads
        if self._reads >= LOOK_EVERY:
            self._reads = 0
            if self._ranges and _resident() > MOST_RESIDENT:
                self.let_go()

    def let_go(self) -> None:
        """Let go of all pages."""
        with self._lock:
            for start, length in self._ranges:
                _LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_DONTNEED)

    def forget(self) -> None:
        """Before the map is taken down: whatever lies at its addresses afterwards must not be touched."""
        with self._lock:
            self._ranges = set()


def _resident() -> int:
    """Bytes of mapped files that are resident in this process."""
    return int(_STATM.read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")


def _ranges(path: Path) -> set[tuple[int, int]]:
    """Start and length of the shared maps of a file."""
    if not _MAPS.exists():
        return set()
    name = os.path.realpath(path)
    found = set()
    for line in _MAPS.read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == name and fields[1].endswith("s"):
            start, end = (int(text, 16) for text in fields[0].split("-"))
            found.add((start, end - start))
    return found
