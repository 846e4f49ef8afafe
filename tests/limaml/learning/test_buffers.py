"""Freed memory is used again: counted by the pages the system had to clear."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from limaml.learning.buffers import keep_freed_memory

def batch():
    return [torch.zeros(4 << 20, dtype=torch.uint8) for _ in range(8)]

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(3):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back like this")
def test_the_next_batch_gets_the_last_ones_pages() -> None:
    assert faults("keep") < 0.1 * faults("leave")
