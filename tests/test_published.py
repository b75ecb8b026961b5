"""From a folder as the hub has it to a video file: ContentV with tiny networks, by the same steps as the real one."""

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from mutoscope.apps.conversion import ConvertJob, convert
from mutoscope.apps.jobs import GenerateJob, generate
from mutoscope.autoencoders import wan
from mutoscope.core import config as configs
from mutoscope.core import weights
from mutoscope.core.errors import MutoscopeError
from mutoscope.core.video import Video
from mutoscope.loading import Loading, tell_licence
from mutoscope.models import contentv
from mutoscope.models.contentv import Config
from mutoscope.models.family import Clips
from mutoscope.pipeline import Request

pytest.importorskip("transformers")
from tests.encoders.hub_folders import write_clip, write_t5

CONFIG = Config(depth=2, num_heads=2, head_dim=16, latent_channels=4, text_dim=4096, pooled_dim=20)
REQUEST = Request("a red kite flies over the sea", steps=2, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maker") / "film"
    torch.manual_seed(0)
    network = contentv.ContentV(CONFIG)
    for parameter in network.parameters():  # layers that start at zero would hide every mistake behind them
        torch.nn.init.normal_(parameter, std=0.1)
    theirs = weights.to_theirs(network.state_dict(), contentv.keys(CONFIG)["diffusers"])
    weights.save(folder / "transformer" / "diffusion_pytorch_model.safetensors", theirs, {"format": "pt"})
    tiny = wan.PRESETS["tiny"]
    state, own = wan.WanAutoencoder(tiny).state_dict(), {"config": json.dumps(configs.to_json(tiny))}
    weights.save(folder / "vae" / "diffusion_pytorch_model.safetensors", state, own)
    for nth in ("", "_2"):
        write_clip(folder / f"text_encoder{nth}", folder / f"tokenizer{nth}")
    write_t5(folder / "text_encoder_3", folder / "tokenizer_3", dim=4096)
    return folder


@pytest.fixture(autouse=True)
def published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = contentv.FAMILY
    assert family.release is not None
    release = replace(family.release, weights=MappingProxyType({"8B": (str(folder),)}), clips=Clips(5, 32, 48, 24))
    presets = MappingProxyType({"8B": CONFIG, "tiny": family.presets["tiny"]})
    monkeypatch.setattr(contentv, "FAMILY", replace(family, presets=presets, release=release))


def test_folder_of_the_hub_becomes_a_video_and_the_licence_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_licence.cache_clear()
    (path,) = generate(GenerateJob(REQUEST, "contentv", out=tmp_path / "a.mp4", loading=Loading("cpu")), quiet=True)
    assert Video.open(path).array().shape == (5, 32, 48, 3)
    assert "note: the weights of contentv are under the Stability AI Community License" in capsys.readouterr().err


def test_converted_weights_make_the_same_video(tmp_path: Path, folder: Path) -> None:
    (first,) = generate(GenerateJob(REQUEST, "contentv", out=tmp_path / "a.mp4", loading=Loading("cpu")), quiet=True)
    for layout in ("official", "mutoscope"):
        out = tmp_path / f"{layout}.safetensors"
        convert(ConvertJob("contentv", Loading(weights=str(folder)), out, layout), quiet=True)
        job = GenerateJob(REQUEST, "contentv", out=tmp_path / f"{layout}.mp4", loading=Loading("cpu", weights=str(out)))
        assert generate(job, quiet=True)[0].read_bytes() == first.read_bytes()


def test_folder_without_its_autoencoder_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in folder.iterdir():
        if name.name != "vae":
            (bare / name.name).symlink_to(name)
    assert contentv.FAMILY.release is not None
    release = replace(contentv.FAMILY.release, weights=MappingProxyType({"8B": (str(bare),)}))
    monkeypatch.setattr(contentv, "FAMILY", replace(contentv.FAMILY, release=release))
    with pytest.raises(MutoscopeError, match=r"there are no weights in .*bare\. .*as the autoencoder \(--vae\)"):
        generate(GenerateJob(REQUEST, "contentv", out=tmp_path / "a.mp4", loading=Loading("cpu")), quiet=True)
