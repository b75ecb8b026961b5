import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mutoscope.apps.conversion import Component, ConvertJob, _component, convert
from mutoscope.core import weights
from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.core.layouts import Layout, recognise
from mutoscope.core.tensors import Checkpoint, Header
from mutoscope.loading import Loading
from mutoscope.models import stiv
from tests.published_toy import keys, publish
from tests.toy_system import toy_system

CONFIG = stiv.PRESETS["tiny"]


FULL_SIZE = Path(__file__).parents[3] / "shared" / "golden" / "fullsize_keys"


@pytest.mark.skipif(not FULL_SIZE.exists(), reason="the published names, ../shared/golden/fullsize_keys, are not here")
@pytest.mark.parametrize("prefix", ["", "module.", "model.diffusion_model."])
@pytest.mark.parametrize(
    ("file", "model", "component", "layout"),
    [
        ("hunyuan_dit_t2v", "hunyuan/t2v", "transformer", "official"),
        ("hunyuan_dit_t2v_diffusers", "hunyuan/t2v", "transformer", "diffusers"),
        ("hunyuan_dit_i2v_token_replace", "hunyuan-i2v/replace", "transformer", "official"),
        ("hunyuan_dit_i2v_latent_concat", "hunyuan-i2v/concat", "transformer", "official"),
        ("hunyuan_avatar_dit", "hunyuan-avatar", "transformer", "official"),
        ("hunyuan_vae_884_16c", "hunyuan", "autoencoder", "official"),
        ("contentv_dit", "contentv", "transformer", "diffusers"),
        ("wan21_vae", "contentv", "autoencoder", "official"),
        ("wan21_vae_diffusers", "contentv", "autoencoder", "diffusers"),
    ],
)
def test_published_names_are_recognised_at_full_size(
    file: str, model: str, component: Component, layout: Layout, prefix: str
) -> None:
    names = json.loads((FULL_SIZE / f"{file}.json").read_text())["keys"]
    headers = {prefix + name: Header(tuple(shape), torch.bfloat16) for name, shape in names.items()}
    checkpoint = Checkpoint(file, headers, lambda name: torch.empty(0), {})
    own, published, _ = _component(model, component)
    match = recognise(checkpoint, own, published, what=model)
    assert published[match.layout] == published[layout]  # where two layouts have the same names, either is right
    assert all(match.header(key).shape == own[key.ours].shape for key in match.keys)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConvertJob:
    publish(tmp_path / "film", monkeypatch)
    return ConvertJob("stiv/tiny", Loading(weights=str(tmp_path / "film")), tmp_path / "out", "official")


@pytest.mark.parametrize("layout", ["official", "diffusers", "mutoscope"])
def test_weights_are_the_same_under_other_names(job: ConvertJob, tmp_path: Path, layout: Layout) -> None:
    files, found = convert(replace(job, layout=layout, shard_gb=1e-4), quiet=True)
    assert found == "diffusers"
    tensors = {name: t for path in files if path.suffix == ".safetensors" for name, t in load_file(path).items()}
    state = toy_system().network.state_dict()
    ours = tensors if layout == "mutoscope" else weights.to_ours(tensors, keys(CONFIG)[layout], source="out")
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[name], state[name]) for name in state)
    assert len([path for path in files if path.suffix == ".safetensors"]) > 1
    assert (tmp_path / "out" / "config.json").exists() == (layout == "diffusers")


def test_pt_file_is_converted_without_being_unpickled_whole(job: ConvertJob, tmp_path: Path) -> None:
    theirs = weights.to_theirs(toy_system().network.state_dict(), keys(CONFIG)["official"])
    ema = {name: tensor + 1 for name, tensor in theirs.items()}
    torch.save({"module": theirs, "ema": ema}, tmp_path / "w.pt")
    files, found = convert(
        replace(
            job,
            loading=Loading(weights=str(tmp_path / "w.pt"), entry="ema"),
            layout="diffusers",
            out=tmp_path / "ema.safetensors",
        ),
        quiet=True,
    )
    assert found == "official"
    assert files == [tmp_path / "ema.safetensors"]
    again = weights.to_ours(load_file(files[0]), keys(CONFIG)["diffusers"], source="out")
    assert all(torch.equal(again[name], tensor + 1) for name, tensor in toy_system().network.state_dict().items())


def test_our_file_says_which_network_it_holds_and_refuses_another(job: ConvertJob, tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    convert(replace(job, layout="mutoscope", out=ours), quiet=True)
    _, metadata = weights.read(ours)
    assert (metadata["model"], metadata["component"]) == ("stiv/tiny", "transformer")
    other = json.loads(metadata["config"]) | {"rope_grid": [1, 2, 3]}
    weights.save(ours, weights.read(ours)[0], metadata | {"config": json.dumps(other)})
    with pytest.raises(WeightsError, match="made for another transformer than that of stiv/tiny: they differ in rope_"):
        convert(replace(job, loading=Loading(weights=str(ours))), quiet=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shard_gb": 0.0}, "shard_size_gb=0"),
        ({"component": "autoencoder"}, "The autoencoder of stiv/tiny has no official layout. It has: mutoscope"),
        ({"model": "nothing"}, "Did you mean"),
    ],
)
def test_impossible_job_is_refused(job: ConvertJob, change: dict, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stiv, "FAMILY", replace(stiv.FAMILY, autoencoder=type(toy_system().autoencoder)))
    with pytest.raises(RequestError, match=says):
        convert(replace(job, **change), quiet=True)


def test_weights_of_another_model_are_refused_and_nothing_is_written(job: ConvertJob, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not fit the transformer of stiv/toy: it looks like the diffusers"):
        convert(replace(job, model="stiv/toy"), quiet=True)
    assert not (tmp_path / "out").exists()
