import subprocess
import sys

import pytest

SCRIPT = """
import torch
from pathlib import Path
from mutoscope.placement.blocks import return_large_blocks

def taken():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024

return_large_blocks()
torch.ones(2**21)
before = taken()
blocks = [torch.ones(2**21) for _ in range(32)]
del blocks[:-1]  # the last stands above the others, which a heap could not shrink past
print(taken() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
def test_blocks_below_one_in_use_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 * 2**23  # of 32 x 8 MiB
