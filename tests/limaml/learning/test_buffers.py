"""Freed memory is used again: by what the allocator keeps at its heap's top, since not every kernel counts page faults."""

import platform
import subprocess
import sys

import pytest

KEPT = """
import ctypes, sys, torch
from limaml.learning.buffers import keep_freed_memory

class MallInfo(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    _fields_ = [(name, ctypes.c_size_t) for name in names]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = MallInfo

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(3):
    batch = [torch.zeros(4 << 20, dtype=torch.uint8) for _ in range(8)]
    del batch
print(mallinfo2().keepcost)
"""


def bytes_kept_at_the_top(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", KEPT, mode], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back like this")
def test_the_next_batch_gets_the_last_ones_pages() -> None:
    batch = 32 << 20
    assert bytes_kept_at_the_top("keep") >= batch > bytes_kept_at_the_top("leave")
