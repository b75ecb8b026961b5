"""Linear layers whose weights are kept in eight bits, as in the published fp8 files of HunyuanVideo.

    weight --quantize--> bits (E4M3), and one scale for all --dequantize--> weight, at every call

A layer then weighs a half of what it does in bfloat16, and its products are as fast as before: only storage shrinks.
The network is not asked: `quantize_linears` puts these layers in place of its own, and `quantized` reads the weights of
a network that was never whole in memory. Which layers they are, `Family.quantized` says.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mutoscope.core.errors import RequestError
from mutoscope.core.layouts import Match
from mutoscope.core.tensors import Header
from mutoscope.core.weights import Key

Quantize = Literal["fp8"]
E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max  # 448


def round_to_e4m3(values: Float[Tensor, "*s"]) -> UInt8[Tensor, "*s"]:
    """Round to the nearest number of four exponent and three mantissa bits, ties to even, and return its bits.

    What is out of range becomes the largest such number, 448, where a bare cast gives NaN.
    """
    return values.clamp(-LARGEST, LARGEST).to(E4M3).view(torch.uint8)


def quantize(weight: Float[Tensor, "*s"]) -> tuple[UInt8[Tensor, "*s"], Float[Tensor, ""]]:
    """Return the bits of a weight and the scale by which they are to be multiplied: the largest one becomes 448."""
    peak = weight.detach().float().abs().amax()
    scale = torch.where(peak > 0, peak / LARGEST, 1.0)
    return round_to_e4m3(weight.detach().float() / scale), scale


def dequantize(bits: UInt8[Tensor, "*s"], scale: Float[Tensor, ""], dtype: torch.dtype) -> Float[Tensor, "*s"]:
    """Return the weight that is meant; bits and scale are multiplied in `dtype`, as the published code does."""
    return bits.view(E4M3).to(dtype).mul_(scale.to(dtype))


class Float8Linear(nn.Module):
    """A linear layer with its weight in eight bits; its bias stays as it was. It cannot be trained.

    The bits are kept as whole numbers, so that a change of the network's type leaves them alone.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        bits, scale = quantize(linear.weight)
        self.register_buffer("bits", bits)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        self.bits: Tensor
        self.scale: Tensor
        self.bias: Tensor | None

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B M"]:
        return F.linear(x, dequantize(self.bits, self.scale, x.dtype), self.bias)


def quantize_linears(network: nn.Module, within: Sequence[str]) -> list[str]:
    """Replace the linear layers in some parts of a network, in place, one after another.

    Args:
        network: on any device; on the meta device, to be filled with weights that are quantised already.
        within: beginnings of the names of those parts, such as ``doubles.``; an empty one means everything.

    Returns:
        Names of the layers replaced.

    Raises:
        RequestError: there is no linear layer in there.
    """
    linears = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(tuple(within))
    }
    if not linears:
        raise RequestError(f"No linear layer's name begins with {' or '.join(within)}: nothing would be quantised.")
    for name, linear in linears.items():
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, Float8Linear(linear))
    return list(linears)


def num_parameters(module: nn.Module) -> int:
    """Return how many numbers a module has learned, in whatever type it keeps them."""
    small = [part for part in module.modules() if isinstance(part, Float8Linear)]
    kept = [tensor for part in small for tensor in (part.bits, part.bias) if tensor is not None]
    return sum(tensor.numel() for tensor in (*module.parameters(), *kept))


def quantized(match: Match, layers: Collection[str]) -> Match:
    """Return weights as a quantised network wants them: each is quantised when it is read.

    Weights that were published in eight bits are read as the bfloat16 numbers that they stand for, and get their bits
    back; their scale comes out within the rounding of bfloat16.

    Args:
        match: the weights of the network as it was.
        layers: names of the layers replaced.
    """
    whole = {key.ours: key for key in match.keys}
    weights = {f"{layer}.weight": layer for layer in layers}
    headers: dict[str, Header] = {}
    for name, key in whole.items():
        header = match.header(key)
        if layer := weights.get(name):
            headers |= {f"{layer}.bits": Header(header.shape, torch.uint8), f"{layer}.scale": Header((), torch.float32)}
        else:
            headers[name] = header

    @lru_cache(maxsize=1)  # bits and scale are asked for one after the other
    def made(layer: str) -> dict[str, Tensor]:
        bits, scale = quantize(match.read(whole[f"{layer}.weight"]))
        return {"bits": bits, "scale": scale}

    def read(name: str) -> Tensor:
        layer, _, kind = name.rpartition(".")
        return match.read(whole[name]) if name in whole else made(layer)[kind]

    return Match(replace(match.checkpoint, headers=headers, read=read), match.layout, [Key(n, (n,)) for n in headers])


def quantized_keys(keys: Iterable[Key], names: Iterable[str]) -> Iterator[Key]:
    """Turn the names of a network's weights into those of a quantised one's.

    The published scales are in a file of their own, each under the name of its layer. Their tensors and those of the
    weights file, seen as bytes, together are what these keys name.

    Args:
        keys: of the network as it was, in a layout that joins nothing.
        names: of the layers replaced.
    """
    replaced = {f"{name}.weight": name for name in names}
    for key in keys:
        if key.ours not in replaced:
            yield key
            continue
        (theirs,) = key.theirs
        yield Key(f"{replaced[key.ours]}.bits", (theirs,))
        yield Key(f"{replaced[key.ours]}.scale", (theirs.removesuffix(".weight"),))
