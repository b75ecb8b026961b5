"""Weights in eight bits, read as the bfloat16 numbers that they stand for.

    plain     X.weight alone                                              a cast: every number is exact in bfloat16
    scaled    X.weight, X.scale_weight                                    ComfyUI, with a marker `scaled_fp8`
              X.weight, X.weight_scale or X.weight_scale_inv              diffusers, compressed-tensors, newer ComfyUI
              in a file of scales beside them                             HunyuanVideo's `_fp8.pt` and `_fp8_map.pt`

A scale is one number, one a row, or one a block; weight = eight bits x scale, multiplied in float32 and rounded once.
Scales of activations are left out: here products are of bfloat16 numbers. Of eight bits without a scale, the largest
is not the largest that there is, unless the scale was lost: then they are refused.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mutoscope.core.errors import WeightsError
from mutoscope.core.tensors import WIDE, Checkpoint, Header

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALES = ("scale_weight", "weight_scale", "weight_scale_inv", "weight.scale", "scale")  # after the layer's name
UNREAD = ("scale_input", "input_scale", "scale_output", "output_scale", "comfy_quant")  # of activations; what it is
MARKER = "scaled_fp8"
OTHERS: Mapping[str, str] = {  # what a name in the file gives away -> the format, which is not read
    r"\.weight_scale_2$": "NVFP4",
    r"\.(absmax|quant_map|weight\.quant_state\..+)$": "bitsandbytes",
    r"\.(qweight|qzeros|g_idx|wscales)$": "GPTQ, AWQ or Nunchaku",
    r"\.(weight_packed|weight_zero_point)$": "compressed-tensors with packed integers",
}
BLOCK = 128  # rows and columns that share a scale, where a layer has a table of them
REMEDY = "Use its bf16, fp16, fp8 or GGUF weights."


def widened(checkpoint: Checkpoint) -> Checkpoint:
    """Return weights with those of eight bits as bfloat16, and without what only told how to read them.

    Args:
        checkpoint: as stored.

    Raises:
        WeightsError: they are quantised in a way that is not read here.
    """
    headers = checkpoint.headers
    _refuse_others(checkpoint)
    small = {name for name, header in headers.items() if header.dtype in FLOAT8 and not _is_marker(name)}
    scales = {name: scale for name in headers if (scale := _scale_of(name, headers))}
    for name, scale in scales.items():
        _spread(headers[name].shape, headers[scale], f"{checkpoint.source}: {scale}")
    layers = {name.removesuffix(".weight") for name in {*small, *scales}}
    unread = {f"{layer}.{suffix}" for layer in layers for suffix in UNREAD} | set(scales.values())
    unread |= {name for name in headers if _is_marker(name)}
    if not small and not unread & headers.keys():
        return checkpoint
    kept = {
        name: Header(header.shape, WIDE) if name in small else header
        for name, header in headers.items()
        if name not in unread
    }

    def read(name: str) -> Tensor:
        tensor = checkpoint.read(name)
        if name in scales:
            spread = _spread(tensor.shape, headers[scales[name]], scales[name])
            return (tensor.float() * spread(checkpoint.read(scales[name]).float())).to(kept[name].dtype)
        if name in small:
            _refuse_lost_scale(checkpoint.source, name, tensor)
            return tensor.to(WIDE)
        return tensor

    return replace(checkpoint, headers=kept, read=read)


def dequantise(weight: Tensor, scale: Tensor, dtype: torch.dtype = WIDE) -> Tensor:
    """Return what HunyuanVideo's eight bits stand for; both factors are rounded to `dtype` first, as published."""
    return weight.to(dtype) * scale.to(dtype)


def _is_marker(name: str) -> bool:
    return name == MARKER or name.endswith(f".{MARKER}")


def _scale_of(name: str, headers: Mapping[str, Header]) -> str | None:
    """Return the name of a weight's scale, if it has one.

    ComfyUI multiplies by `scale_weight` whatever the type of the weight; by the others only where it has eight bits.
    """
    header, layer = headers[name], name.removesuffix(".weight")
    if not name.endswith(".weight") or not header.dtype.is_floating_point:
        return None
    spelled = SCALES if header.dtype in FLOAT8 else SCALES[:1]
    return next((f"{layer}.{suffix}" for suffix in spelled if f"{layer}.{suffix}" in headers), None)


def _spread(shape: tuple[int, ...], scale: Header, what: str) -> Callable[[Tensor], Tensor]:
    """Return what lays scales out over a weight.

    Raises:
        WeightsError: there are neither one, nor one a row, nor one a block of them.
    """
    count = torch.Size(scale.shape).numel()
    if scale.dtype.is_floating_point and scale.dtype not in FLOAT8:
        if count == 1:
            return lambda scales: scales.reshape(())
        if count == shape[0] and scale.shape in ((count,), (count, *(1,) * (len(shape) - 1))):
            return lambda scales: scales.reshape(-1, *(1,) * (len(shape) - 1))
        if len(shape) == 2 and scale.shape == tuple(-(-side // BLOCK) for side in shape):

            def laid_out(scales: Tensor) -> Tensor:
                wide = scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
                return wide[: shape[0], : shape[1]]

            return laid_out
    kind = str(scale.dtype).removeprefix("torch.")
    raise WeightsError(
        f"{what} is a scale of {kind} {'x'.join(map(str, scale.shape))} for weights of {'x'.join(map(str, shape))}: "
        f"another format than float8 with one scale a layer, a row, or a block of {BLOCK}x{BLOCK}. {REMEDY}"
    )


def _refuse_others(checkpoint: Checkpoint) -> None:
    """Refuse weights that are quantised in another way, and say in which."""
    for name, header in checkpoint.headers.items():
        for pattern, kind in OTHERS.items():
            if re.search(pattern, name):
                raise WeightsError(f"{checkpoint.source} is quantised by {kind} ({name}), which is not read. {REMEDY}")
        layer = name.removesuffix(".weight")
        if header.dtype in (torch.int8, torch.uint8) and f"{layer}.weight_scale" in checkpoint.headers:
            kind = str(header.dtype).removeprefix("torch.")
            raise WeightsError(
                f"{checkpoint.source} is quantised to {kind} ({name} with its weight_scale), which is not read."
                f" {REMEDY}"
            )


def _refuse_lost_scale(source: str, name: str, weight: Tensor) -> None:
    """Refuse eight bits that fill their range, as only scaled ones do, where no scale is."""
    largest = torch.finfo(weight.dtype).max
    if weight.ndim > 1 and weight.numel() and float(weight.float().abs().amax()) == largest:
        raise WeightsError(
            f"{source} stores {name} as float8 that fills its range, up to {largest:g}, so it was scaled; but its "
            "scale is not in the file. Use the file that has the scales, or bf16 weights."
        )
