"""From published weights to ours and back: find out whose names they carry, then fill a module, or write other names.

    Checkpoint --recognise--> Match --fill--> module, on its own device and in its own types
                                    --convert--> shards of safetensors under the names of another layout

Everything that can be wrong is found by `recognise`, from names, shapes and types, before any tensor is read. One
tensor is in memory at a time.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mutoscope.core.errors import WeightsError
from mutoscope.core.files import replacing, replacing_folder
from mutoscope.core.tensors import TYPES, Checkpoint, Header, as_bytes
from mutoscope.core.weights import Key, describe, few, joined, parted, summary

Layout = Literal["official", "diffusers", "mutoscope"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
# Parts of names that torch.compile, FSDP and activation checkpointing put in, before a name or within it.
WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|_fpw_module)\.")
AVERAGES = re.compile(r"ema|average|shadow", re.IGNORECASE)  # in what stands before the names of averaged weights
LORA = re.compile(r"[._](lora_?(a|b|up|down|mid|unet|te)?|hada_w\d|lokr_w\d|dora_scale)([._]|$)|^lora_", re.IGNORECASE)
STEMS: Mapping[Layout, str] = {"diffusers": "diffusion_pytorch_model"}  # what diffusers looks for; else "model"
FOLDERS: Mapping[str, tuple[str, ...]] = {  # where published folders hold their components
    "transformer": ("transformer", "transformers", "unet", "diffusion_models"),
    "autoencoder": ("vae",),
}
NAMES = {dtype: name for name, dtype in TYPES.items()}


@dataclass(frozen=True)
class Match:
    """Weights that fit a network.

    Args:
        checkpoint: the weights, exactly the tensors that `keys` names.
        layout: whose names they carry.
        keys: the names there of all tensors of the network.
    """

    checkpoint: Checkpoint
    layout: str
    keys: Sequence[Key]

    def read(self, key: Key) -> Tensor:
        """Read one tensor of ours, on the CPU in the type it was stored in."""
        return joined([self.checkpoint.read(name) for name in key.theirs], key)

    def header(self, key: Key) -> Header:
        """Return shape and type of what `read` will return."""
        return _joined_header([self.checkpoint.headers[name] for name in key.theirs])


def headers_of(module: nn.Module) -> dict[str, Header]:
    """Return the shapes and types of a module's state."""
    return {name: Header(tuple(tensor.shape), tensor.dtype) for name, tensor in module.state_dict().items()}


def recognise(
    checkpoint: Checkpoint, own: Mapping[str, Header], layouts: Mapping[str, Sequence[Key]], *, what: str
) -> Match:
    """Find the layout of weights by their names, and check every name and shape.

    Args:
        checkpoint: the weights.
        own: the tensors of the network that they shall fill.
        layouts: names of those tensors in published layouts; our own need not be among them.
        what: the network, for messages, such as "hunyuan/t2v".

    Raises:
        WeightsError: names are missing or unknown, or shapes differ. Says which layout it seems to be.
    """
    layouts = {**layouts, "mutoscope": [Key(name, (name,)) for name in own]}
    unwrapped = _unwrapped(checkpoint)
    found = [
        Match(unwrapped.under(prefix), layout, keys)
        for layout, keys in layouts.items()
        for prefix in _prefixes(unwrapped, {name for key in keys for name in key.theirs})
    ]
    if not found:
        _refuse_lora(checkpoint, what)
        raise WeightsError(
            f"{checkpoint.source} has none of the names of {what}, in any layout ({', '.join(layouts)}): it begins "
            f"with {few(sorted(checkpoint.headers)) or 'nothing'}. Choose the model and the component that it was made "
            "for."
        )
    match = max(found, key=_likeness)
    if match.checkpoint.flattens:
        match = replace(match, checkpoint=_unflattened(match, own))
    wanted, given, _ = _named(match)
    headers = match.checkpoint.headers
    problems = {"missing": sorted(wanted - given), "unknown": sorted(given - wanted)}
    whole = [key for key in match.keys if all(name in headers for name in key.theirs)]
    problems["of another shape or kind"] = [
        problem for key in whole for problem in _misfit(key, headers, own[key.ours])
    ]
    if any(problems.values()):
        _refuse_lora(checkpoint, what)
        raise WeightsError(
            f"{checkpoint.source} does not fit {what}: it looks like the {match.layout} layout, but of its tensors "
            f"{summary(problems)}. Choose the model that it was made for."
        )
    return match


def fill(module: nn.Module, match: Match, device: torch.device | str = "cpu") -> None:
    """Read weights straight into a module, one tensor at a time, in the module's own types.

    Args:
        module: the network that `match` was made for. What of it is on the meta device is made first.
        match: the weights.
        device: where to make what is on the meta device.

    Raises:
        WeightsError: a number is not finite.
    """
    with torch.no_grad():
        for key in match.keys:
            path, _, name = key.ours.rpartition(".")
            owner = module.get_submodule(path)
            own = getattr(owner, name)
            if own.is_meta:
                own = torch.empty_like(own, device=device)
                is_buffer = name in owner._buffers
                setattr(owner, name, own if is_buffer else nn.Parameter(own, getattr(owner, name).requires_grad))
            own.copy_(match.read(key))
            if own.is_floating_point() and not own.sum(dtype=torch.float32).isfinite():
                raise WeightsError(
                    f"{match.checkpoint.source} holds numbers that are not finite, in {few(key.theirs)}: damaged, "
                    "or from a training that diverged. Use another file."
                )
    if left := [name for name, buffer in module.named_buffers() if buffer.is_meta]:
        raise RuntimeError(f"{type(module).__name__} keeps {left} outside its state: compute them where they are used")


def convert(
    match: Match,
    keys: Sequence[Key],
    layout: Layout,
    out: Path,
    *,
    metadata: Mapping[str, str],
    shard_bytes: int,
    on_tensor: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write weights under the names of another layout, as safetensors, one tensor in memory at a time.

    Args:
        match: the weights.
        keys: names of the layout to write.
        layout: its name.
        out: a file ending in ``.safetensors``, which will hold everything, or a new folder for shards and their index.
        metadata: text to put into every file.
        shard_bytes: what the tensors of a shard may weigh at most, in bytes; a greater tensor has a shard of its own.
        on_tensor: is called when another tensor is written.

    Returns:
        The files written.

    Raises:
        WeightsError: the folder is not empty.
        MutoscopeError: there is no room, or no right to write. Nothing is left behind then.
    """
    pieces = list(_pieces(match, keys))
    total = sum(piece.header.size_bytes for piece in pieces)
    _refuse_full_disk(out, total)
    metadata = {"format": "pt", **metadata}
    if out.suffix == ".safetensors":
        with replacing(out) as temporary:
            _write(temporary, pieces, match, metadata, on_tensor)
        return [out]
    stem, shards = STEMS.get(layout, "model"), list(_shards(pieces, shard_bytes))
    names = [f"{stem}-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [f"{stem}.safetensors"]
    with replacing_folder(out) as folder:
        for name, shard in zip(names, shards, strict=True):
            _write(folder / name, shard, match, metadata, on_tensor)
        if len(shards) > 1:
            weight_map = {piece.name: name for name, shard in zip(names, shards, strict=True) for piece in shard}
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            names.append(f"{stem}.safetensors.index.json")
            (folder / names[-1]).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        if layout == match.layout == "diffusers" and match.checkpoint.config is not None:
            names.append("config.json")
            (folder / names[-1]).write_text(json.dumps(match.checkpoint.config, indent=2) + "\n", encoding="utf-8")
    return [out / name for name in names]


@dataclass(frozen=True)
class _Piece:
    """A tensor to write: part `index` of what `source` reads and `target` parts."""

    name: str
    header: Header
    source: Key
    target: Key
    index: int


def _pieces(match: Match, keys: Sequence[Key]) -> Iterator[_Piece]:
    sources = {key.ours: key for key in match.keys}
    for target in keys:
        source = sources[target.ours]
        shape, dtype = match.header(source)
        for index, name in enumerate(target.theirs):
            part = (target.rows[index], *shape[1:]) if target.rows else shape
            yield _Piece(name, Header(part, dtype), source, target, index)


def _shards(pieces: Sequence[_Piece], limit: int) -> Iterator[list[_Piece]]:
    shard, size = [], 0
    for piece in pieces:
        if shard and size + piece.header.size_bytes > limit:
            yield shard
            shard, size = [], 0
        shard.append(piece)
        size += piece.header.size_bytes
    yield shard


def _write(
    path: Path, pieces: Sequence[_Piece], match: Match, metadata: Mapping[str, str], on_tensor: Callable[[], None]
) -> None:
    """Write a safetensors file: its head, which is known before any tensor is read, then tensor after tensor."""
    pieces = sorted(pieces, key=lambda piece: -piece.header.dtype.itemsize)  # so that each begins at a multiple of it
    head: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for piece in pieces:
        begin, end = end, end + piece.header.size_bytes
        shape, dtype = piece.header
        head[piece.name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        last: Key | None = None
        parts: list[Tensor] = []
        for piece in pieces:
            if piece.target is not last:
                last, parts = piece.target, parted(match.read(piece.source), piece.target)
            file.write(as_bytes(parts[piece.index].contiguous()))
            on_tensor()


def _named(match: Match) -> tuple[set[str], set[str], Match]:
    return {name for key in match.keys for name in key.theirs}, set(match.checkpoint.headers), match


def _likeness(match: Match) -> tuple[int, int]:
    """Say how many names fit, and then how few do not."""
    wanted, given, _ = _named(match)
    return len(wanted & given), -len(wanted ^ given)


def _unwrapped(checkpoint: Checkpoint) -> Checkpoint:
    """Return the same tensors without what compilers and wrappers put into their names, unless two would be one."""
    names = {WRAPPERS.sub("", name): name for name in checkpoint.headers}
    return checkpoint.renamed(names) if len(names) == len(checkpoint.headers) else checkpoint


def _prefixes(checkpoint: Checkpoint, wanted: set[str]) -> list[str]:
    """Return what stands before the names of a network where a file holds it as a part of something larger.

    Whatever it is, such as ``model.diffusion_model.``: what comes before most of the names that are wanted.

    Raises:
        WeightsError: there are several networks of these names in the file, and none of them is an average of another.
    """
    counts = Counter(
        name[:start]
        for name in checkpoint.headers
        for start in (0, *(dot + 1 for dot, letter in enumerate(name) if letter == "."))
        if name[start:] in wanted
    )
    most = max(counts.values(), default=0)
    prefixes = [prefix for prefix, count in counts.items() if count == most]
    if most < len(wanted) or len(prefixes) == 1:
        return prefixes
    plain = [prefix for prefix in prefixes if not AVERAGES.search(prefix)]
    if len(plain) != 1:
        raise WeightsError(
            f"{checkpoint.source} holds {len(prefixes)} networks of the same names, under "
            f"{', '.join(prefix or 'no prefix' for prefix in prefixes)}. Name one of them (--entry)."
        )
    return plain


def _unflattened(match: Match, own: Mapping[str, Header]) -> Checkpoint:
    """Give tensors that lost axes in a GGUF file the shape that the network needs, where the elements are as many."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key in match.keys:
        needed = own[key.ours].shape
        for name, count in zip(key.theirs, key.rows or needed[:1] or (1,), strict=True):
            header, shape = match.checkpoint.headers.get(name), (count, *needed[1:]) if needed else ()
            if header is not None and torch.Size(header.shape).numel() == torch.Size(shape).numel() and len(shape) > 2:
                shapes[name] = shape
    return match.checkpoint.shaped(shapes)


def _refuse_lora(checkpoint: Checkpoint, what: str) -> None:
    """Refuse what changes a network and is none."""
    names = [name for name in checkpoint.headers if LORA.search(name)]
    if 2 * len(names) > len(checkpoint.headers):
        raise WeightsError(
            f"{checkpoint.source} is a LoRA ({few(sorted(names))}): a change of {what}, not its weights. "
            "Merge it into the full weights first (in diffusers: load_lora_weights, fuse_lora, save_pretrained) and "
            "give the result."
        )


def _joined_header(parts: Sequence[Header]) -> Header:
    if len(parts) == 1:
        return parts[0]
    dtype = reduce(torch.promote_types, (part.dtype for part in parts))
    return Header((sum(part.shape[0] for part in parts), *parts[0].shape[1:]), dtype)


def _misfit(key: Key, headers: Mapping[str, Header], own: Header) -> list[str]:
    """Say how the tensors that make one of ours differ from what is needed, if they do."""
    rows = key.rows or own.shape[:1]
    shapes = [(count, *own.shape[1:]) for count in rows] if own.shape else [()]
    return [
        f"{name} (given {describe(*headers[name])}, needs {describe(shape, own.dtype)})"
        for name, shape in zip(key.theirs, shapes, strict=True)
        if describe(*headers[name]) != describe(shape, own.dtype)
    ]


def _refuse_full_disk(out: Path, size_bytes: int) -> None:
    place = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < size_bytes:
        raise WeightsError(
            f"{out} needs {size_bytes / 1e9:.1f} GB, there are {free / 1e9:.1f} free. Free some space there, or name "
            "another folder."
        )
