"""A published system small enough for tests: tiny stiv, as if others had released it under names of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mutoscope.core import weights
from mutoscope.core.weights import Key
from mutoscope.models import stiv
from mutoscope.models.family import Clips, Family, Release
from tests.toy_system import toy_system


def keys(config: stiv.Config) -> Mapping[str, Sequence[Key]]:
    """Name tensors as others would: plainly in "official", with queries, keys and values apart in "diffusers"."""
    with torch.device("meta"):
        state = stiv.STIV(config).state_dict()
    official = [Key(name, (f"net.{name}",)) for name in state]
    apart = [_apart(name, config) if ".qkv." in name else Key(name, (f"model_{name}",)) for name in state]
    return {"official": official, "diffusers": apart}


def _apart(name: str, config: stiv.Config) -> Key:
    return Key(name, tuple(name.replace("qkv", f"to_{part}") for part in "qkv"), (config.dim,) * 3)


class Autoencoder(nn.Module):
    """The toy autoencoder of `toy_system`, found in a folder ``vae``."""

    @classmethod
    def load(cls, folder: Path) -> Any:
        assert folder.name == "vae"
        return toy_system().autoencoder


class Encoder(nn.Module):
    """The same for its text encoder."""

    @classmethod
    def load(cls, folder: Path) -> Any:
        assert (folder / "text_encoder").is_dir()
        return toy_system().encoder


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    """Write the weights into a folder as published ones are, and make stiv a family that says so."""
    system = toy_system()
    for name in ("transformer", "vae", "text_encoder"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    theirs = weights.to_theirs(system.network.state_dict(), keys(stiv.PRESETS["tiny"])["diffusers"])
    save_file(theirs, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file({"w": torch.ones(1)}, folder / "vae" / "diffusion_pytorch_model.safetensors")
    release = Release(
        weights=MappingProxyType({"tiny": (str(folder), "hub:maker/film")}),
        licence="Toy Licence",
        url="https://example.org/licence",
        clips=Clips(num_frames=4, height=32, width=32, fps=8),
        text_tokens=7,
        encoder_parameters=1000,
        autoencoder_dtype=torch.float32,
    )
    family = replace(stiv.FAMILY, keys=keys, release=release, autoencoder=Autoencoder, encoder=Encoder)
    monkeypatch.setattr(stiv, "FAMILY", family)
    return family
