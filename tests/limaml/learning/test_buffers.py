"""Freed memory is used again: told by where the allocator takes a block, since not every kernel counts faults."""

import platform
import subprocess
import sys

import pytest

MAPPED = """
import ctypes, sys, torch
from limaml.learning.buffers import keep_freed_memory

class MallInfo(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    _fields_ = [(name, ctypes.c_size_t) for name in names]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = MallInfo

if sys.argv[1] == "keep":
    keep_freed_memory()
before = mallinfo2().hblks
batch = [torch.zeros(24 << 20, dtype=torch.uint8) for _ in range(3)]
print(mallinfo2().hblks - before)
"""


def blocks_mapped_anew(mode: str) -> int:
    """Of three, how many came straight from the system and go back to it when they are freed."""
    done = subprocess.run([sys.executable, "-c", MAPPED, mode], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back like this")
def test_large_blocks_come_from_memory_that_is_kept() -> None:
    assert blocks_mapped_anew("leave") == 3
    assert blocks_mapped_anew("keep") == 0
