"""Tensors' memory kept for the next ones.

A batch's temporaries are megabytes each and freed together. glibc then gives their pages back to the system, which
clears each anew for the next batch: on small networks that costs as much as the products. It stops once the process has
freed one block just under the largest size its thresholds adapt to (32 MiB): blocks up to that size then come from the
heap, and twice as much stays there unused.
"""

import torch

KEPT_BYTES = 31 << 20


def keep_freed_memory() -> None:
    """Let this process reuse up to about 62 MiB of freed memory; no change where the C library is not glibc."""
    torch.empty(KEPT_BYTES, dtype=torch.uint8)
