"""Memory that is given back as soon as it is free, on a CPU.

The C library glibc learns, from large blocks that are freed, to keep blocks of up to 32 MB for itself. A decoder frees
thousands of such blocks, of sizes that change from layer to layer, and what is kept has holes into which the next do
not fit: HunyuanVideo's, at a quarter of its widths, took 1.6 times what it held (17 frames of 448x448, in
`benchmarks/bench_plan.py` without the call below), and no less time. For small clips it is no gain, and a third slower.
"""

import ctypes
import sys

LARGE_BYTES = 2**20  # of a block; less is left to the C library, which is faster at it
M_MMAP_THRESHOLD = -3  # malloc.h


def return_large_blocks() -> None:
    """Have the C library, where it is glibc, return large blocks to the system when they are freed.

    It holds for the whole process and for good.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
