"""From a model's name, and where its parts are, to a system that is ready to generate.

    name, Loading --outline--> Outline: family, config, size; paths, names and shapes are checked, nothing is read
                  --load-->    System

A model is one that comes with this package, a file that training wrote, or published weights: those of the hub, or the
user's own in any layout (`core.checkpoint`, `core.places`). Parts that are not named are looked for beside the network,
and then on the hub.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mutoscope.autoencoders.base import Autoencoder
from mutoscope.core import config as configs
from mutoscope.core import folders, layouts, places, weights
from mutoscope.core.checkpoint import files_of, open_checkpoint
from mutoscope.core.device import find_device
from mutoscope.core.digests import sha256_of
from mutoscope.core.dist import print0
from mutoscope.core.errors import MissingExtra, RequestError, WeightsError
from mutoscope.core.layouts import Match
from mutoscope.core.tensors import Checkpoint
from mutoscope.encoders.base import Encoder, TextTokens
from mutoscope.encoders.cache import Cached, Picture, default_folder, fingerprint
from mutoscope.models.family import Family, Reader, Release
from mutoscope.models.family import load as load_family
from mutoscope.pipeline import (
    AUTOENCODER,
    BUNDLED,
    DEFAULT_MODEL,
    ENCODER,
    Outline,
    System,
    autoencoder_dtype,
    no_weights,
)
from mutoscope.pipeline import outline as outline_by_name
from mutoscope.placement.offload import Offload
from mutoscope.placement.quantize import Quantize, quantize_linears, quantized
from mutoscope.plan import Way, refuse_quantized


@dataclass(frozen=True)
class Loading:
    """Where the parts of a model are, and how it is kept. None stands for what is usual.

    Args:
        device: where to run; the fastest there is, if not given.
        weights: of the network: a file, a folder with it or with everything, here or on the hub (hub:OWNER/NAME).
        vae: of the autoencoder: a file, or a folder with it.
        text_encoders: folder that holds those of the text encoders and their tokenizers.
        entry: which weights to take of a file that holds several, such as "ema".
        template: for published models that put a template around a prompt, a file with it.
        offload: "component" keeps network, autoencoder and text encoder off the device but for the one that is used.
        quantize: "fp8" keeps the weights of the network's linear layers in eight bits; see `placement.quantize`.
        decode: how; see `pipeline.System.generate`.
    """

    device: str | None = None
    weights: str | None = None
    vae: str | None = None
    text_encoders: str | None = None
    entry: str | None = None
    template: Path | None = None
    offload: Offload = "none"
    quantize: Quantize | None = None
    decode: Way | None = None


@dataclass(frozen=True)
class Places:
    """Where the parts of published weights are, as `core.folders` reads them.

    Args:
        network: its file, or a folder that holds it or its folder.
        autoencoder: the same.
        readers: the folder that holds those of all that reads a prompt.
    """

    network: str
    autoencoder: str
    readers: str


def outline(name: str, loading: Loading = Loading()) -> Outline:
    """Find out what a model's name means, and check what was named of its parts, by the heads of files alone.

    Args:
        name: see `load`.
        loading: where its parts are.

    Raises:
        RequestError: there is no such model, or an option does not go with it.
        WeightsError: a part is missing, damaged, or of another network.
        MissingExtra: a part is on the hub or in a GGUF file, and what reads those is not installed.
    """
    found = outline_by_name(name)
    if found.path is not None:
        for option, value in (("weights", loading.weights), ("entry", loading.entry), ("template", loading.template)):
            if value is not None:
                raise RequestError(
                    f"{name} was not published by others, so --{option} does not go with it. Leave it out; a file that "
                    "training wrote is named as the model (--model FILE)."
                )
        for part in (loading.vae, loading.text_encoders):
            if part is not None and not Path(part).is_file():
                raise WeightsError(f"there are no weights at {part}. Name a file that training wrote.")
        return found
    if loading.weights is not None:
        if found.family.release is None:
            raise no_weights(name)
        found = replace(found, is_given=True)
        checkpoint = _network(places.part_in(loading.weights, "transformer"), loading)
        found = replace(found, config=config_of(found.family, found.config, checkpoint))
        _match(found, checkpoint)
    if loading.vae is not None:
        _autoencoder(places.part_in(loading.vae, "autoencoder"))
    if loading.weights is not None or loading.text_encoders is not None:
        reader = found.family.reader_of(found.config, loading.template)
        if (folder := _own_readers(loading, reader)) is not None:
            found = replace(found, encoder_parameters=_num_parameters(folder, reader))
    return found


def load(name: str = DEFAULT_MODEL, device: str | None = None, loading: Loading = Loading()) -> System:
    """Load a model with its autoencoder and text encoder.

    The text encoder of published weights is loaded when there is a prompt to encode that it has not encoded before on
    this machine: see `encoders.cache`.

    Args:
        name: ``family/preset`` of a bundled or published model (hyphen and underscore serve as well), or a weights file
            that training wrote. An autoencoder or a text encoder beside such a file is taken before the bundled one.
        device: where to run, instead of that of `loading`.
        loading: where the parts are, and how they are kept.

    Raises:
        RequestError: there is no such model, its template is not to be had, or it has no layers to quantise.
        WeightsError: there are no weights for it, or they are damaged.
        MissingExtra: they are to be downloaded, and huggingface_hub is not installed.
    """
    loading = loading if device is None else replace(loading, device=device)
    found = outline(name, loading)
    refuse_quantized(found.family, name, loading.quantize)
    where = find_device(loading.device)
    if found.path is not None:
        return _load_own(found, found.path, loading, where)
    if found.release is None:
        raise no_weights(name)
    return _load_published(found, found.release, loading, where)


def source_of(name: str, loading: Loading = Loading()) -> str:
    """Return where the network of a published model comes from: as named, or its place on the hub.

    Args:
        name: of the model.
        loading: see `load`.
    """
    found = outline_by_name(name)
    if loading.weights is not None:
        return places.part_in(loading.weights, "transformer")
    return _published_place(found)


@cache
def tell_licence(family: str) -> None:
    """Say on whose terms the published weights of a family are used; once in the life of a process."""
    release = load_family(family).release
    if release is not None:
        print0(f"note: the weights of {family} are under the {release.licence}, {release.url}")


def _load_own(found: Outline, path: Path, loading: Loading, device: torch.device) -> System:
    """Load what training wrote."""
    tensors, _ = weights.read(path)
    network = found.family.network(found.config)
    weights.load_into(network, tensors, source=str(path))
    if loading.quantize is not None:
        quantize_linears(network, found.family.quantized)
    files = (
        path,
        Path(loading.vae) if loading.vae else _beside(path, AUTOENCODER),
        Path(loading.text_encoders) if loading.text_encoders else _beside(path, ENCODER),
    )
    parts = network, found.family.autoencoder.load(files[1]), found.family.encoder.load(files[2])
    _refuse_other_latents(found, parts[1], str(files[1]))
    home = device if loading.offload == "none" else torch.device("cpu")
    for part in parts:
        part.to(home).eval().requires_grad_(False)
    assert found.size is not None
    return System(
        found.family,
        *parts,
        found.name,
        found.size,
        found.sampling,
        torch.bfloat16 if device.type == "cuda" else None,
        hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest(),
        device if loading.offload == "component" else None,
    )


def _load_published(found: Outline, release: Release, loading: Loading, device: torch.device) -> System:
    """Load what others published, in bfloat16 or less, straight onto the device where it will live.

    A weight is quantised when it is read, so the whole is nowhere in bfloat16.
    """
    reader = found.family.reader_of(found.config, loading.template)
    tell_licence(found.family.name)
    home = device if loading.offload == "none" else torch.device("cpu")
    where = _places(found, loading, reader)
    network, match = _match(found, _network(where.network, loading))
    if loading.quantize is not None:
        match = quantized(match, quantize_linears(network, found.family.quantized))
    folder = _brought(where.readers, reader.folders, "--text-encoders with the folder that holds text_encoder")
    encoder = _remembering(found, reader, folder, home)
    path = _autoencoder_path(where.autoencoder)
    autoencoder = found.family.autoencoder.load(path)
    _refuse_other_latents(found, autoencoder, where.autoencoder)
    layouts.fill(network, match, home)
    autoencoder.to(home, autoencoder_dtype(release, on_cpu=device.type == "cpu"))
    for part in (network, autoencoder):
        part.eval().requires_grad_(False)
    assert found.size is not None

    @cache
    def origin() -> Mapping[str, Any]:
        return {
            "network": _listed(where.network, layouts.FOLDERS["transformer"]),
            "autoencoder": _listed(str(path), layouts.FOLDERS["autoencoder"]),
            "text_encoders": {"from": where.readers, "fingerprint": encoder.fingerprint},
        }

    return System(
        found.family,
        network,
        autoencoder,
        encoder.to(home),
        found.name,
        found.size,
        found.sampling,
        fingerprint=lambda: _digest(origin()),
        offload_to=device if loading.offload == "component" else None,
        origin=origin,
    )


# ---- where the parts are ---------------------------------------------------------------------------------------------


def _places(found: Outline, loading: Loading, reader: Reader) -> Places:
    """Find every part: as named, around the network, or on the hub."""
    hub = _published_place(found)
    network = places.part_in(loading.weights or hub, "transformer")

    try:
        vae = loading.vae and places.part_in(loading.vae, "autoencoder")
        for source in dict.fromkeys((network, hub)):  # the hub is asked only for what is not here
            vae = vae or places.folder_around(source, layouts.FOLDERS["autoencoder"], folders.ENDINGS)
        readers = _own_readers(loading, reader) or _source(places.folder_with(hub, reader.folders))
        return Places(network, vae or hub, readers or hub)
    except (WeightsError, MissingExtra) as error:
        if loading.weights is None or (loading.vae is not None and loading.text_encoders is not None):
            raise
        raise WeightsError(
            f"{loading.weights} has no autoencoder or no text encoders beside it, and the hub cannot be asked: {error} "
            "Or name those that you have: --vae FILE, --text-encoders FOLDER."
        ) from error


def _published_place(found: Outline) -> str:
    """Return the place of everything that was published under a name, or of the family's main release."""
    release = found.family.release
    if release is None:
        raise no_weights(found.name)
    return release.weights.get(str(found.preset), next(iter(release.weights.values())))[0]


def _own_readers(loading: Loading, reader: Reader) -> str | None:
    """Return the folder of what reads a prompt, as named or around the network that was named, if it is there."""
    if loading.text_encoders is not None:
        return places.folder_named(loading.text_encoders, reader.folders, "--text-encoders")
    if loading.weights is not None:
        return _source(places.folder_with(places.part_in(loading.weights, "transformer"), reader.folders))
    return None


def _source(folder: folders.Folder | None) -> str | None:
    return None if folder is None else folder.source


def _network(source: str, loading: Loading) -> Checkpoint:
    return open_checkpoint(source, within=layouts.FOLDERS["transformer"], entry=loading.entry)


def _autoencoder(source: str) -> Checkpoint:
    try:
        return open_checkpoint(source, within=layouts.FOLDERS["autoencoder"])
    except WeightsError as error:
        raise WeightsError(f"{error} It is asked for as the autoencoder (--vae).") from error


def _autoencoder_path(source: str) -> Path:
    """Return an autoencoder's place on this machine."""
    _autoencoder(source)  # brings its config.json as well
    folder, file = folders.find(source)
    return folder.fetch(file) if file is not None else files_of(source, layouts.FOLDERS["autoencoder"])[0].parent


def _brought(source: str, wanted: Sequence[str], advice: str) -> Path:
    try:
        return folders.bring(source, wanted)
    except WeightsError as error:
        raise WeightsError(f"{error} Or say {advice}.") from error


def _num_parameters(source: str, reader: Reader) -> int:
    """Return about how many parameters the encoders of a folder have, by the size of their files."""
    folder, _ = folders.find(source)
    if not isinstance(folder, folders.LocalFolder):
        return 0
    found = [path for pattern in reader.folders for path in folder.path.glob(f"{pattern}/*.safetensors")]
    return sum(path.stat().st_size for path in found) // 2


# ---- what they are ---------------------------------------------------------------------------------------------------


def config_of(family: Family, preset: Any, checkpoint: Checkpoint) -> Any:
    """Return the config of a network: as its weights say it, or a config.json beside them, or else its preset.

    Args:
        family: of the network.
        preset: its config, if nothing says otherwise.
        checkpoint: its weights.

    Raises:
        RecipeError: what is said does not fit the family.
    """
    text = checkpoint.metadata.get("config")
    if text is not None and checkpoint.metadata.get("component", "transformer") == "transformer":
        return configs.from_json(type(preset), json.loads(text))
    said = checkpoint.config or {}
    if said.get("type") == type(preset).__name__:
        return configs.from_json(type(preset), said)
    return preset if family.configured is None else family.configured(preset, said)


def _match(found: Outline, checkpoint: Checkpoint) -> tuple[nn.Module, Match]:
    """Return a network on the meta device, and the weights that fit it."""
    with torch.device("meta"):
        network = found.family.network(found.config).to(torch.bfloat16)
    keys = found.family.keys(found.config)
    return network, layouts.recognise(checkpoint, layouts.headers_of(network), keys, what=found.name)


def _refuse_other_latents(found: Outline, autoencoder: Autoencoder, source: str) -> None:
    made, needed = getattr(getattr(autoencoder, "config", None), "latent_channels", None), found.config.latent_channels
    if made is not None and made != needed:
        raise WeightsError(
            f"the autoencoder of {source} makes latents of {made} channels, and {found.name} takes {needed}. Name the "
            "one that it was trained with (--vae)."
        )


class _Fitting(Cached):
    """An encoder that remembers, for a network that takes tokens of one width."""

    def __init__(self, load: Callable[[], Encoder], fingerprint: str, found: Outline, source: Path) -> None:
        super().__init__(load, fingerprint, default_folder())
        self.dim, self.name, self.source = found.config.text_dim, found.name, source

    def encode(self, texts: Sequence[str], pictures: Sequence[Picture] | None = None) -> TextTokens:
        """Encode prompts, or read what they were encoded to; as `Cached.encode`."""
        return self._checked(super().encode(texts, pictures))

    def null(self, count: int) -> TextTokens:
        """Encode the empty prompt ``count`` times."""
        return self._checked(super().null(count))

    def _checked(self, text: TextTokens) -> TextTokens:
        if text.tokens.shape[2] != self.dim:
            raise WeightsError(
                f"the text encoders in {self.source} make tokens of {text.tokens.shape[2]} numbers, and {self.name} "
                f"takes {self.dim}. Name those that it was trained with (--text-encoders)."
            )
        return text


def _remembering(found: Outline, reader: Reader, folder: Path, home: torch.device) -> Cached:
    """Return the encoder of a folder that holds what it reads with, which is loaded when a prompt is new to it."""

    def load() -> Encoder:
        encoder = cast(nn.Module, reader.load(folder))
        return cast(Encoder, encoder.to(home).eval().requires_grad_(False))

    own = sorted(path for pattern in reader.folders for path in folder.glob(pattern) if path.is_dir())
    versions = [f"{name} {version(name)}" for name in ("mutoscope", "torch", "transformers") if find_spec(name)]
    files = [fingerprint(path) for path in own]
    return _Fitting(load, fingerprint(own[0], *reader.settings, *versions, *files), found, folder)


def _listed(source: str, within: Sequence[str]) -> Mapping[str, Any]:
    """Say where weights are, and the SHA-256 of each of their files."""
    return {"from": source, "sha256": {path.name: sha256_of(path) for path in files_of(source, within)}}


def _digest(origin: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all files that a system was read from, wherever they lie."""
    own = {part: {name: value for name, value in said.items() if name != "from"} for part, said in origin.items()}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def _beside(path: Path, name: str) -> Path:
    own = path.with_name(name)
    return own if own.exists() else BUNDLED / name
