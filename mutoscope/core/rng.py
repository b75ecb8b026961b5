"""Random numbers that follow from a key, such as (seed, sample id, step), and from nothing else.

No state is carried from one draw to the next. A sample therefore sees the same noise on any device and world size, in
any batch, before and after a resume.
"""

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def generator(*key: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator that is seeded from `key`.

    For initial weights and shuffles. A CPU generator keeps 32 bits of its seed, so that of some 100,000 keys two are
    likely to share a stream; `noise` and `uniform` use 128 bits.

    Args:
        *key: whole numbers and words; (1, "a"), ("1", "a") and ("a", 1) are three keys.
        device: where the generator draws; the streams of two device types differ.
    """
    return torch.Generator(device).manual_seed(int.from_bytes(_digest(key)[:8], "little"))


def noise(
    shape: Sequence[int],
    seed: int,
    sample_id: int,
    step: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "..."]:
    """Draw the standard normal noise of one sample at one step.

    Drawn on the CPU, in float64, and only then moved: torch's own stream depends on the device and on the vector width
    of the processor. NumPy promises that the raw stream behind it never changes; Box & Muller make it normal.

    Args:
        shape: shape of one sample, such as (C, T, H, W).
        seed: seed of the run.
        sample_id: number of the sample in its data set, or of the video in its request.
        step: optimizer step; 0 where there is none.
        device: where the result is put.
        dtype: type of the result.

    Returns:
        Noise of `shape`.

    Source: Box & Muller 1958; Philox: Salmon et al. 2011.
    """
    count = math.prod(shape)
    half = (count + 1) // 2
    bits = _philox("noise", seed, sample_id, step).random_raw(2 * half)
    uniforms = ((bits >> 11) + 1) / 2**53  # in (0, 1], so that the logarithm is finite
    radius = np.sqrt(-2 * np.log(uniforms[:half]))
    angle = 2 * np.pi * uniforms[half:]
    normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    return torch.from_numpy(normals.astype(np.float32)).reshape(tuple(shape)).to(dtype).to(device)


def uniform(seed: int, sample_id: int, step: int, stream: str = "t") -> float:
    """Draw one uniform number strictly between 0 and 1, also after rounding to float32.

    Args:
        seed: seed of the run.
        sample_id: number of the sample in its data set.
        step: optimizer step.
        stream: what the number is for; streams are independent.
    """
    bits = int(_philox("uniform", stream, seed, sample_id, step).random_raw())
    return ((bits >> 41) + 0.5) / 2**23


def _philox(*key: int | str) -> np.random.Philox:
    return np.random.Philox(key=int.from_bytes(_digest(key)[:16], "little"))


def _digest(key: Sequence[int | str]) -> bytes:
    return hashlib.sha256(json.dumps(key).encode()).digest()
