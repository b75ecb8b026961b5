"""GGUF files as the tools of ComfyUI write them: matrices quantised, and at most four axes."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def write_gguf(path: Path, tensors: Mapping[str, Tensor], kind: str, *, says_shape: bool = True) -> None:
    """Write tensors.

    Args:
        path: file.
        tensors: by name.
        kind: type of every tensor of two axes or more whose rows are whole blocks of it; F32 for the others.
        says_shape: put the shape of those that are folded to two axes into the file.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "hyvid")
    for name, tensor in tensors.items():
        values = tensor.detach().float().numpy()
        if values.ndim > 4:
            if says_shape:
                writer.add_array(f"comfy.gguf.orig_shape.{name}", list(map(int, values.shape)))
            values = values.reshape(len(values), -1)
        wanted = gguf.GGMLQuantizationType[kind]
        is_whole = values.ndim > 1 and values.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0
        used = wanted if is_whole else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
